#!/usr/bin/env bash
# Guess: `dcmscale +C`, which cuts a region out of an image and scales nothing, leaves Pixel Spacing as it is, and moves Image
#   Position to the region's first pixel, or removes it.
# Seen: it writes a Pixel Spacing as if the whole image had been scaled down to the size of the region. A quarter of an image with
#   a spacing of 2 mm (half the width, half the height) gets 4 mm; a strip of half the height gets 4\2, for square pixels. Image
#   Position stays that of the whole image, with its Frame of Reference, and so does Imager Pixel Spacing. Not a word, exit
#   code 0. Scaling without +C writes a right spacing.
# Matters: whatever is measured in the cut-out is too large by the factor of the cut, areas by its square, and it lies at
#   another place on top of the series that it is from. Set both with dcmodify afterwards.
# Versions: Debian dcmtk 3.6.7-9~deb12u4; pydicom 3.0.2 and numpy 2.2.6 make the image and read it (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv python3 pydicom==3.0.2 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >place.py <<'END'
import pydicom

d = pydicom.dcmread("CT1")
d.PixelSpacing, d.ImagerPixelSpacing, d.SliceThickness = [2, 2], [2, 2], 3
d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, 6], [1, 0, 0, 0, 1, 0]
d.FrameOfReferenceUID = d.StudyInstanceUID + ".9"
d.save_as("ct.dcm")
END
venv/bin/python place.py
cat >show.py <<'END'
import pydicom

whole, d = pydicom.dcmread("ct.dcm"), pydicom.dcmread("out.dcm")
pixel = "its pixels" if (d.pixel_array[0, 0], d.pixel_array[-1, -1]) == (0x44, 0xBB) else "other pixels"
same = "same" if d.FrameOfReferenceUID == whole.FrameOfReferenceUID else "another"
values = (d.PixelSpacing, d.ImagerPixelSpacing, d.ImagePositionPatient)
print(f"{d.Rows}x{d.Columns}", *("\\".join(f"{value:g}" for value in each) for each in values), same, pixel)
END
# after OPTION...: exit code and output of dcmscale; size, Pixel Spacing, Imager Pixel Spacing, position, frame of reference.
after() {
    rm -f out.dcm
    status_of dcmscale "$@" ct.dcm out.dcm | tr '\n' ' '
    cat output.txt
    venv/bin/python show.py
}
expect "half the size, no cut" "$(after +Sxf 0.5)" '0 8x8 4\4 2\2 0\0\6 same other pixels'
expect "columns and rows 4 to 11" "$(after +C 4 4 8 8)" '0 8x8 4\4 2\2 0\0\6 same its pixels'
expect "a strip: rows 4 to 11" "$(after +C 0 4 16 8)" '0 8x16 4\2 2\2 0\0\6 same other pixels'
finish
