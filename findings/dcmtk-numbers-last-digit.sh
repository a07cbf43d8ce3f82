#!/usr/bin/env bash
# Guess: dcm2json, dcm2xml and dcmdump +L, which print FD with up to 17 digits, print the number that is there: 17 digits are
#   enough to tell any two doubles apart, and the C library's conversion is exact.
# Seen: DCMTK converts by arithmetic of its own, and the last digit is off. Of the 500 decimals 0.000 to 0.499 dcm2json and
#   dcmdump +L make 102 into another double (0.043 becomes 0.042999999999999989). By dcm2xml and xml2dcm 53 of
#   these change, and 162 of 500 random numbers between 0 and 1. FL survives.
# Matters: where FD is used (MR diffusion gradients, enhanced multi-frame geometry and timing), a comparison of DCMTK's JSON with
#   another tool's shows differences that are not there, and dcm2xml with xml2dcm changes what nobody edited. Compare FD with a
#   tolerance, or compare the bytes.
# Versions: Debian dcmtk 3.6.7-9~deb12u4; pydicom 3.0.2, whose JSON is exact, makes the instances and reads them.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv python3 pydicom==3.0.2
venv/bin/python made_up.py ct1
cat >read_back.py <<'END'
import json
import random
import struct
import subprocess

import pydicom
from pydicom.dataset import Dataset

FD, FL = 0x00720074, 0x00720076  # Selector FD Value, Selector FL Value
random.seed(1)
sets = {
    "decimals": [number / 1000 for number in range(500)],
    "random": [random.random() for _ in range(500)],
    "large": [10.0**power for power in range(60, 300)],
}


def off(numbers, read):
    """Tell how many of these are another number in what was read."""
    assert len(numbers) == len(read)
    return sum(one != other for one, other in zip(numbers, read))


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


for name, numbers in sets.items():
    d = pydicom.dcmread("CT1")
    d.add_new(FD, "FD", numbers)
    d.save_as("in.dcm")
    by_json = json.loads(run("dcm2json", "in.dcm"))["00720074"]["Value"]
    run("dcm2xml", "+Wb", "+M", "in.dcm", "in.xml")
    run("xml2dcm", "in.xml", "out.dcm")
    by_xml = pydicom.dcmread("out.dcm")[FD].value
    dumped = run("dcmdump", "+L", "+P", "0072,0074", "in.dcm").split()[2].split("\\")
    by_pydicom = Dataset.from_json(d.to_json())[FD].value
    by_dump = [float(number) for number in dumped]
    print(name, *(off(numbers, read) for read in (by_json, by_xml, by_dump, by_pydicom)))
floats = [struct.unpack("<f", struct.pack("<f", number))[0] for number in sets["random"]]
d.add_new(FL, "FL", floats)
d.save_as("in.dcm")
by_json = json.loads(run("dcm2json", "in.dcm"))["00720076"]["Value"]
print("FL", off(floats, [struct.unpack("<f", struct.pack("<f", number))[0] for number in by_json]))
END
venv/bin/python read_back.py >counts.txt
# Numbers that read back as another one, by: dcm2json, dcm2xml and xml2dcm, dcmdump, pydicom.
expect "of 500 decimals" "$(grep decimals counts.txt)" "decimals 102 53 102 0"
expect "of 500 random numbers" "$(grep random counts.txt)" "random 63 162 63 0"
expect "of 240 powers of ten above 1e59" "$(grep large counts.txt)" "large 231 232 231 0"
expect "of 500 random numbers as FL, dcm2json" "$(grep FL counts.txt)" "FL 0"
finish
