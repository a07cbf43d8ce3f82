#!/usr/bin/env bash
# Guess: gdcmdiff, which prints how two files differ, prints a difference wherever it is, and ends with 1 like diff when there
#   is one.
# Seen: it does not look into a sequence whose length is the same in both files, or undefined in both: another code, another
#   referenced instance, items in another order go unnoticed. Where lengths differ it compares the items that both have, so a
#   further item, or all of them gone, is no difference either. Outside sequences, and for an item's element of another
#   length, it prints what it should. The exit code is 0 whatever it has found.
# Matters: for comparing an archive before and after a move or an upgrade. SR content, references, RT plans and enhanced
#   multi-frame geometry are all in sequences. Compare the output of dcmdump, or by pydicom (data sets compare with ==).
# Versions: Debian libgdcm-tools 3.0.21-1, dcmtk 3.6.7-9~deb12u4 (dcmconv writes undefined lengths), pydicom 3.0.2.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian libgdcm-tools 3.0.21
debian dcmtk 3.6.7
python_packages venv python3 pydicom==3.0.2
venv/bin/python made_up.py ct1
cat >change.py <<'END'
import pydicom
from pydicom.dataset import Dataset


def reference(number):
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    item.ReferencedSOPInstanceUID = f"1.2.826.0.1.3680043.10.9999.1.1.{number}"
    return item


# What is different about a file of this name: the numbers of the instances that it refers to, and how else it was changed.
FILES = {
    "first": ([1, 2], {}),
    "name": ([1, 2], {"PatientName": "Made^Down"}),
    "pixels": ([1, 2], {"PixelData": bytes(256)}),
    "other": ([1, 3], {}),
    "order": ([2, 1], {}),
    "more": ([1, 2, 3], {}),
    "none": ([], {}),
    "long": ([1, 999], {}),
}
for name, (numbers, changes) in FILES.items():
    d = pydicom.dcmread("CT1")
    d.ReferencedImageSequence = [reference(number) for number in numbers]
    for keyword, value in changes.items():
        setattr(d, keyword, value)
    d.save_as(name)
END
venv/bin/python change.py
# differences FILE FILE: exit code and number of differences printed; equal or not by pydicom.
differences() {
    echo "$(status_of gdcmdiff "$1" "$2"), $(grep -c -- '^ *---' output.txt) printed," \
        "$(venv/bin/python -c '
import sys
from pydicom import dcmread
print("equal" if dcmread(sys.argv[1]) == dcmread(sys.argv[2]) else "not equal")' "$1" "$2")"
}
expect "the same file" "$(differences first first)" "0, 0 printed, equal"
expect "another name" "$(differences first name)" "0, 1 printed, not equal"
expect "other pixels" "$(differences first pixels)" "0, 1 printed, not equal"
expect "an item's value of another length" "$(differences first long)" "0, 1 printed, not equal"
expect "an item's value of the same length" "$(differences first other)" "0, 0 printed, not equal"
expect "items in another order" "$(differences first order)" "0, 0 printed, not equal"
expect "a further item" "$(differences first more)" "0, 0 printed, not equal"
expect "no item left" "$(differences first none)" "0, 0 printed, not equal"
dcmconv -e first first.undefined
dcmconv -e long long.undefined
dcmconv -e more more.undefined
expect "undefined lengths: another value" "$(differences first.undefined long.undefined)" "0, 0 printed, not equal"
expect "undefined lengths: a further item" "$(differences first.undefined more.undefined)" "0, 0 printed, not equal"
finish
