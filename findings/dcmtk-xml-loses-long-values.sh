#!/usr/bin/env bash
# Guess: `dcm2xml +Wb` (write binary data) and xml2dcm, one after the other, give the data set back, or say what they left out:
#   xml2dcm does warn ("is 'hidden', empty element inserted") where dcm2xml without +Wb has withheld a value.
# Seen: values above 4 KB that are not text go missing: the document of an encapsulated PDF, LUTs, arrays of FD, private OB.
#   dcm2xml writes an empty element with loaded="no" (its manual says so), and xml2dcm takes that for an empty value. Neither says
#   a word, both exit with 0. Only for pixel data xml2dcm fails, for another reason ("no conversion to transfer syntax"). With
#   +M (load all) as well, everything comes back. Text of any length does in either case.
# Matters: for editing by way of XML. SR and RT structure sets, and small tests, come back whole, and then a PDF is empty. +Wb
#   is not enough: give +M too, and compare.
# Versions: Debian dcmtk 3.6.7-9~deb12u4; pydicom 3.0.2 makes the instances and reads them.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv python3 pydicom==3.0.2
venv/bin/python made_up.py ct1 pdf
cat >grow.py <<'END'
import pydicom

d = pydicom.dcmread("PDF")
d.save_as("short.dcm")
d.EncapsulatedDocument += bytes(8192)
d.save_as("document.dcm")
d = pydicom.dcmread("CT1")
d.add_new(0x00283006, "OW", bytes(range(256)) * 32)  # LUT Data
d.add_new(0x00720074, "FD", [0.5] * 600)  # Selector FD Value
d.add_new(0x00720072, "DS", ["0.5"] * 2000)  # Selector DS Value
d.TextValue = "made up " * 1000
d.private_block(0x0009, "MADE UP", create=True).add_new(0x01, "OB", bytes(5000))
d.save_as("values.dcm")
d = pydicom.dcmread("CT1")
d.Rows = d.Columns = 128
d.PixelData = bytes(range(256)) * 64
d.save_as("pixels.dcm")
END
venv/bin/python grow.py
cat >compare.py <<'END'
import sys

import pydicom

before, after = (pydicom.dcmread(path) for path in sys.argv[1:])
gone = [element.keyword or "private" for element in before if element.value and not after[element.tag].value]
other = [element.keyword for element in before if element.value != after[element.tag].value]
print("emptied:", *gone) if gone else print("all there" if not other else other)
END
# round_trip FILE OPTION...: exit codes of both tools, how many lines they print, and what the data set has lost.
round_trip() {
    local file=$1 written read lines
    shift
    written=$(status_of dcm2xml "$@" "$file" data.xml)
    lines=$(wc -l <output.txt)
    rm -f after.dcm
    read=$(status_of xml2dcm data.xml after.dcm)
    echo "exit codes $written $read, $((lines + $(wc -l <output.txt))) lines" \
        "$([[ $read == 0 ]] && venv/bin/python compare.py "$file" after.dcm)"
}
expect "short document, +Wb" "$(round_trip short.dcm +Wb)" "exit codes 0 0, 0 lines all there"
expect "document of 8 KB, +Wb" "$(round_trip document.dcm +Wb)" "exit codes 0 0, 0 lines emptied: EncapsulatedDocument"
expect "document of 8 KB, +Wb +M" "$(round_trip document.dcm +Wb +M)" "exit codes 0 0, 0 lines all there"
expect "long values of all kinds, +Wb" "$(round_trip values.dcm +Wb)" \
    "exit codes 0 0, 0 lines emptied: private LUTData SelectorFDValue"
expect "long values of all kinds, +Wb +M" "$(round_trip values.dcm +Wb +M)" "exit codes 0 0, 0 lines all there"
expect "pixel data of 16 KB, +Wb" "$(round_trip pixels.dcm +Wb)" "exit codes 0 1, 1 lines "
expect "pixel data of 16 KB, +Wb +M" "$(round_trip pixels.dcm +Wb +M)" "exit codes 0 0, 0 lines all there"
dcm2xml document.dcm data.xml
status_of xml2dcm data.xml after.dcm >/dev/null
expect "neither option: warnings of the document" "$(grep -c "(0042,0011) is 'hidden'" output.txt)" 1
finish
