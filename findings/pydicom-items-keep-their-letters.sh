#!/usr/bin/env bash
# Guess: with pydicom, a new Specific Character Set is assigned to a data set that was read, and save_as writes all text in it,
#   at the top and in the items of sequences. An item moved into a data set of another character set is written in that one.
# Seen: so it is at the top, and in items whose text was looked at before. What has not been looked at in an item is written with
#   the bytes that it was read with: a Latin-1 file made ISO_IR 192 has UTF-8 at the top and Latin-1 in its items. The same for
#   an item that was read from one file and put into another. No word when writing; the reader gets "Stra?e" with a
#   replacement character, or refuses the file. str(d), or d.decode(), before the change makes all of it right.
# Matters: for making an archive UTF-8, and for whoever copies a request, a code or a content item from one object to the next.
#   It works in the test that prints the data set first, and not in the script without the print.
# Versions: pydicom 3.0.2 (Python 3.10 or later), Debian dcmtk 3.6.7-9~deb12u4 (dcm2json reads the result, too).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
export PYTHONIOENCODING=utf-8
python_packages venv python3 pydicom==3.0.2
venv/bin/python made_up.py ct1 ct2
cat >latin.py <<'END'
import pydicom
from pydicom.dataset import Dataset

d = pydicom.dcmread("CT1")
d.SpecificCharacterSet, d.PatientName = "ISO_IR 100", "M\u00fcller^J\u00f6rg"
item = Dataset()
item.RequestedProcedureDescription = "Stra\u00dfe"
d.RequestAttributesSequence = [item]
d.save_as("latin.dcm")
END
venv/bin/python latin.py
cat >change.py <<'END'
import sys

import pydicom

d = pydicom.dcmread("latin.dcm")
match sys.argv[1]:
    case "print":
        str(d)
    case "decode":
        d.decode()
    case "move":
        item = d.RequestAttributesSequence[0]
        d = pydicom.dcmread("CT2")
        d.PatientName, d.RequestAttributesSequence = "M\u00fcller^J\u00f6rg", [item]
d.SpecificCharacterSet = "ISO_IR 192"
d.save_as("changed.dcm")
END
cat >bytes.py <<'END'
import pydicom

d = pydicom.dcmread("changed.dcm")
for value in d.get_item("PatientName").value, d.RequestAttributesSequence[0].get_item(0x00321060).value:
    try:
        print(value.decode("utf-8").strip(), end=" ")
    except UnicodeDecodeError:
        print(f"{value.decode('latin-1').strip()} in Latin-1", end=" ")
END
# told HOW: name and item's text as they are in the file, and whether dcm2json reads it.
told() {
    venv/bin/python change.py "$1"
    venv/bin/python bytes.py
    dcm2json changed.dcm changed.json 2>/dev/null && venv/bin/python -c 'import json; json.load(open("changed.json", "rb"))' \
        2>/dev/null && echo "read" || echo "not read"
}
expect "changed at once" "$(told change)" "Müller^Jörg Straße in Latin-1 not read"
expect "printed before" "$(told print)" "Müller^Jörg Straße read"
expect "decoded before" "$(told decode)" "Müller^Jörg Straße read"
expect "moved to a data set in UTF-8" "$(told move)" "Müller^Jörg Straße in Latin-1 not read"
finish
