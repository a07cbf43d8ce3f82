#!/usr/bin/env bash
# Guess: pdf2dcm, stl2dcm and cda2dcm, told to take the patient and the study from a DICOM file (+st), take its Specific Character
#   Set along with the names, as img2dcm does for UTF-8.
# Seen: they copy the bytes of the names, and write ISO_IR 100 over them, whatever the file has. A patient in UTF-8, Müller, is
#   MÃ¼ller from then on, and a Korean name becomes Latin letters between escape sequences. +se (the series, too) does the same.
#   Only names in Latin-1 and ASCII come out right. img2dcm copies a single set, and leaves out one with code extensions, as the
#   Korean. Exit code 0, not a word of it, neither in the manuals.
# Matters: reports and models are attached to a study just by this option, so that patient and images match. The archive gets a
#   second spelling of the name under the same Patient ID, and by its rules renames the patient, or quarantines the object. The
#   bytes are whole: set Specific Character Set to that of the source afterwards (dcmodify -m).
# Versions: Debian dcmtk 3.6.7-9~deb12u4; pydicom 3.0.2 makes the study and reads the results, pillow 11.1.0 makes a JPEG file.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv python3 pydicom==3.0.2 pillow==11.1.0
venv/bin/python made_up.py ct1
cat >studies.py <<'END'
import pydicom
from PIL import Image

for name, character_set, patient in (
    ("latin-1", "ISO_IR 100", "Müller^Jürg"),
    ("utf-8", "ISO_IR 192", "Müller^Jürg"),
    ("korean", ["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞"),
):
    d = pydicom.dcmread("CT1")
    d.SpecificCharacterSet, d.PatientName = character_set, patient
    d.save_as(f"{name}.dcm")
Image.new("RGB", (16, 16)).save("picture.jpg")
END
venv/bin/python studies.py
printf '%%PDF-1.4\nmade up\n%%%%EOF\n' >document.pdf
head -c 84 /dev/zero >model.stl
echo '<ClinicalDocument xmlns="urn:hl7-org:v3"><id root="1.2.3"/><title>made up</title></ClinicalDocument>' >document.xml
cat >patient.py <<'END'
import sys

import pydicom

d = pydicom.dcmread(sys.argv[1])
character_set = d.get("SpecificCharacterSet", "none:")
name = str(d.PatientName).replace("\x1b", "<ESC>")
print(character_set if isinstance(character_set, str) else "/".join(character_set), name)
END
patient() {
    PYTHONUTF8=1 venv/bin/python -W ignore patient.py "$1"
}
for name in latin-1 utf-8 korean; do
    case $name in
    latin-1) study="ISO_IR 100 Müller^Jürg" seen=$study image=$study ;;
    utf-8) study="ISO_IR 192 Müller^Jürg" seen="ISO_IR 100 MÃ¼ller^JÃ¼rg" image=$study ;;
    korean)
        study="/ISO 2022 IR 149 Hong^Gildong=洪^吉洞"
        bytes='Hong^Gildong=<ESC>$)Cûó^<ESC>$)CÑÎÔ×'
        seen="ISO_IR 100 $bytes" image="none: $bytes"
        ;;
    esac
    expect "$name, the study" "$(patient $name.dcm)" "$study"
    img2dcm -q -stf $name.dcm picture.jpg made.dcm
    expect "$name, img2dcm" "$(patient made.dcm)" "$image"
    for tool in "pdf2dcm document.pdf" "stl2dcm model.stl" "cda2dcm document.xml"; do
        for option in +st +se; do
            rm made.dcm
            expect "$name, $tool $option, exit code" "$(status_of "${tool% *}" $option $name.dcm "${tool#* }" made.dcm)" 0
            expect "$name, $tool $option" "$(patient made.dcm)" "$seen"
            expect "$name, $tool $option, speaks of characters" "$(grep -ic charac output.txt)" 0
        done
    done
done
finish
