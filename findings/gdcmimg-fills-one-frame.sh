#!/usr/bin/env bash
# Guess: `gdcmimg --fill 0 --region 0,100,0,20`, which the manual gives for removing what is burned into an image, fills that
#   rectangle in every frame of a multi-frame image, or refuses one.
# Seen: it fills the first frame alone, and leaves the others as they are. No word, exit code 0; colour, RLE and JPEG frames
#   the same. Six numbers (0,100,0,20,0,59 for 60 frames) fill the frames from the fifth to the sixth number; neither the
#   manual nor --help has that form.
# Matters: names and dates are burned into ultrasound and angiography, which are multi-frame. What one sees when the result is
#   opened is the first frame, and it is clean. Give six numbers, and look at the last frame.
# Versions: Debian libgdcm-tools 3.0.21-1, dcmtk 3.6.7-9~deb12u4 (dcmcrle, dcmcjpeg), pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or
#   later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian libgdcm-tools 3.0.21
python_packages venv python3 pydicom==3.0.2 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >frames.py <<'END'
import pydicom

for kind, samples, photometric in (("grey", 1, "MONOCHROME2"), ("colour", 3, "RGB")):
    d = pydicom.dcmread("CT1")
    d.Modality, d.SOPClassUID = "US", "1.2.840.10008.5.1.4.1.1.3.1"
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID
    d.NumberOfFrames, d.SamplesPerPixel, d.PhotometricInterpretation = 3, samples, photometric
    if samples == 3:
        d.PlanarConfiguration = 0
    d.PixelData = bytes([200]) * (16 * 16 * samples * 3)
    d.save_as(f"{kind}.dcm")
END
venv/bin/python frames.py
dcmcrle grey.dcm rle.dcm
dcmcjpeg grey.dcm jpeg.dcm
cat >filled.py <<'END'
import sys

import pydicom

for frame in pydicom.dcmread(sys.argv[1]).pixel_array:
    print("filled" if not frame[:3].any() else "untouched" if frame.all() else "in part", end=" ")
END
# after FILE REGION: exit code, and what became of the upper three rows of each frame.
after() {
    rm -f out.dcm
    status_of gdcmimg --fill 0 --region "$2" -i "$1" -o out.dcm
    [[ ! -s output.txt ]] || cat output.txt
    venv/bin/python filled.py out.dcm
}
for kind in grey colour rle jpeg; do
    expect "$kind, four numbers" "$(after $kind.dcm 0,15,0,2 | tr '\n' ' ')" "0 filled untouched untouched "
done
expect "six numbers" "$(after grey.dcm 0,15,0,2,0,2 | tr '\n' ' ')" "0 filled filled filled "
expect "six numbers, from the second" "$(after grey.dcm 0,15,0,2,1,2 | tr '\n' ' ')" "0 untouched filled filled "
finish
