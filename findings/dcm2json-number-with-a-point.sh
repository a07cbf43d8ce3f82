#!/usr/bin/env bash
# Guess: dcm2json, which rewrites the decimal strings that JSON has no number for ("+5", "007", ".5"), does so with every valid
#   one: a fixed point number is digits with an optional "." (PS3.5 table 6.2-1), so "1." is valid, and is 1 in JSON.
# Seen: it writes 1. into the JSON, which is not a number there, and no parser takes the file: Python's, Node's. The exit code is
#   0, without a word. One such value in a sequence's item spoils the whole data set. "-1." and "1.E2" the same; ".5", "+5",
#   "007", "-.25", "+0.0e+1" are rewritten rightly. pydicom's to_json has 1.0.
# Matters: all instances of a device that writes whole numbers with a point ("40.") drop out of an import by JSON, or out of a
#   comparison, and what one sees is a syntax error far down in a file. Take another tool for these (pydicom).
# Versions: Debian dcmtk 3.6.7-9~deb12u4, pydicom 3.0.2; Python's and Node.js's JSON parsers.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
command -v node >/dev/null || missing "Node.js is not installed"
python_packages venv python3 pydicom==3.0.2
venv/bin/python made_up.py ct1
cat >write.py <<'END'
import json
import sys

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

text = sys.argv[1].encode()
text += b" " * (len(text) % 2)
item, d = Dataset(), pydicom.dcmread("CT1")
item[0x00180050] = RawDataElement(Tag(0x00180050), "DS", len(text), text, 0, False, True)
d.RequestAttributesSequence = [item]
d.save_as("ct.dcm")
made = json.loads(pydicom.dcmread("ct.dcm").to_json())
print(made["00400275"]["Value"][0]["00180050"]["Value"][0], end=" ")
END
cat >parse.py <<'END'
import json

try:
    print(json.load(open("ct.json"))["00400275"]["Value"][0]["00180050"]["Value"][0])
except json.JSONDecodeError:
    print("invalid")
END
# told TEXT: the number that pydicom makes of it, dcm2json's exit code, and the number that Python and Node.js find in its JSON.
told() {
    venv/bin/python write.py "$1"
    status_of dcm2json ct.dcm ct.json | tr '\n' ' '
    [[ ! -s output.txt ]] || cat output.txt
    venv/bin/python parse.py | tr '\n' ' '
    node -e 'try { JSON.parse(require("fs").readFileSync("ct.json")); console.log("valid"); } catch { console.log("invalid"); }'
}
for text in 1. -1. 1.E2; do
    expect "$text" "$(told "$text" | cut -d ' ' -f 2-)" "0 invalid invalid"
done
expect "pydicom, 40." "$(told 40. | cut -d ' ' -f 1)" "40.0"
expect ".5" "$(told .5)" "0.5 0 0.5 valid"
expect "+5" "$(told +5)" "5.0 0 5 valid"
expect "007" "$(told 007)" "7.0 0 7 valid"
expect "-.25" "$(told -.25)" "-0.25 0 -0.25 valid"
expect "+0.0e+1" "$(told +0.0e+1)" "0.0 0 0.0 valid"
finish
