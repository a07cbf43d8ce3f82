#!/usr/bin/env bash
# Guess: a C-FIND key matches an attribute of several values when it matches any one of them (PS3.4 C.2.2.3). Image Type AXIAL
#   finds the instance of ORIGINAL\PRIMARY\AXIAL, and so does at least the whole value, just as an answer has brought it.
# Seen: Orthanc compares the key with the values joined by backslashes. AXIAL and ORIGINAL find nothing where there are three
#   values. The whole finds nothing either, as a backslash in the key makes it a list of alternatives, whatever the VR, each of
#   which is compared with the whole. Only wildcards get there: *AXIAL*, and these match across values. The same for Operators'
#   Name at the series level. The final status is 0000.
# Matters: looking for ORIGINAL images, for localizers, for an operator or a reading physician, one finds nothing, or just what
#   happens to have a single value, and takes it for the answer. Ask with wildcards, and look at the values that come back.
# Versions: Debian orthanc 1.10.1+dfsg-2+deb12u1; findscu of dcmtk 3.6.7-9~deb12u4 asks; pydicom 3.0.2 makes the instances.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian orthanc 1.10.1
python_packages venv python3 pydicom==3.0.2
venv/bin/python made_up.py ct1 ct2 ct3
cat >values.py <<'END'
import pydicom

for number, image_type, operators in (
    (1, ["ORIGINAL", "PRIMARY", "AXIAL"], ["Made^Up", "Not^Real"]),
    (2, ["ORIGINAL", "PRIMARY", "LOCALIZER"], ["Not^Real"]),
    (3, ["DERIVED"], ["Nobody"]),
):
    d = pydicom.dcmread(f"CT{number}")
    d.SeriesInstanceUID += f".{number}"
    d.ImageType, d.OperatorsName = image_type, operators
    d.save_as(f"CT{number}")
END
venv/bin/python values.py
orthanc store '"DicomAlwaysAllowFind": true'
dcmsend 127.0.0.1 "$port" CT1 CT2 CT3
# matches LEVEL KEY: how many answers, and the final status.
matches() {
    findscu -v -S -k QueryRetrieveLevel="$1" -k StudyInstanceUID=1.2.826.0.1.3680043.10.9999.1 -k SeriesInstanceUID= -k "$2" \
        127.0.0.1 "$port" 2>&1 | tr -d '\0' >answers.txt
    echo "$(grep -c 'Find Response: .*(Pending)' answers.txt), $(sed -n 's/.*Final Find Response (\(.*\))/\1/p' answers.txt)"
}
expect "any Image Type" "$(matches IMAGE ImageType)" "3, Success"
expect "values in the answers" "$(grep -o 'CS \[ORIGINAL.PRIMARY.AXIAL *\]' answers.txt)" 'CS [ORIGINAL\PRIMARY\AXIAL]'
expect "AXIAL" "$(matches IMAGE ImageType=AXIAL)" "0, Success"
expect "ORIGINAL" "$(matches IMAGE ImageType=ORIGINAL)" "0, Success"
expect "the whole" "$(matches IMAGE 'ImageType=ORIGINAL\PRIMARY\AXIAL')" "0, Success"
expect "*AXIAL*" "$(matches IMAGE 'ImageType=*AXIAL*')" "1, Success"
expect "across values" "$(matches IMAGE 'ImageType=*GINAL?PRIM*')" "2, Success"
expect "a single value" "$(matches IMAGE ImageType=DERIVED)" "1, Success"
expect "ORIGINAL or DERIVED" "$(matches IMAGE 'ImageType=ORIGINAL\DERIVED')" "1, Success"
expect "an operator, one of two or alone" "$(matches SERIES 'OperatorsName=Not^Real')" "1, Success"
finish
