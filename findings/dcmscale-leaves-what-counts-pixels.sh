#!/usr/bin/env bash
# Guess: dcmscale, which doubles Pixel Spacing when it halves an image, does the same for the calibration of an ultrasound image
#   (Physical Delta and bounds of its regions), and scales or removes an overlay; or it warns.
# Seen: only Pixel Spacing changes. A halved ultrasound image keeps the cm per pixel and the bounds of its regions, so that a
#   distance in it measures half of what it is, in a region that reaches beyond the image. An overlay keeps its size, and its
#   upper left quarter lies on the image; a display shutter keeps its edges. Imager Pixel Spacing, of projection X-ray, stays,
#   too, beside a Pixel Spacing that has changed. Exit code 0, without a word, and the manual names no attribute.
# Matters: dcmscale makes small copies for teaching, for the web, for a viewer with little memory. Ultrasound has no Pixel
#   Spacing as a rule, and is measured by its regions. Correct all of these afterwards with dcmodify, or remove them.
# Versions: Debian dcmtk 3.6.7-9~deb12u4; pydicom 3.0.2 makes the image and reads it.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv python3 pydicom==3.0.2
venv/bin/python made_up.py ct1
cat >ultrasound.py <<'END'
import pydicom
from pydicom.dataset import Dataset

d, region = pydicom.dcmread("CT1"), Dataset()
d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
d.Modality, d.ImageType = "US", ["ORIGINAL", "PRIMARY"]
d.Rows = d.Columns = 64
d.PixelData = bytes(64 * 64)
region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
region.RegionLocationMinX0 = region.RegionLocationMinY0 = 8
region.RegionLocationMaxX1 = region.RegionLocationMaxY1 = 56
region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
region.PhysicalDeltaX = region.PhysicalDeltaY = 0.5
d.SequenceOfUltrasoundRegions = [region]
d.ShutterShape = "RECTANGULAR"
d.ShutterLeftVerticalEdge = d.ShutterUpperHorizontalEdge = 8
d.ShutterRightVerticalEdge = d.ShutterLowerHorizontalEdge = 56
d.add_new(0x60000010, "US", 64)
d.add_new(0x60000011, "US", 64)
d.add_new(0x60000040, "CS", "G")
d.add_new(0x60000050, "SS", [1, 1])
d.add_new(0x60000100, "US", 1)
d.add_new(0x60000102, "US", 0)
d.add_new(0x60003000, "OW", bytes(64 * 64 // 8))
d.save_as("ultrasound.dcm")
del d.SequenceOfUltrasoundRegions
d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
d.Modality, d.PixelSpacing, d.ImagerPixelSpacing = "CR", [0.5, 0.5], [0.5, 0.5]
d.save_as("xray.dcm")
END
venv/bin/python ultrasound.py
cat >measures.py <<'END'
import sys

import pydicom

for name in sys.argv[1:]:
    d = pydicom.dcmread(name)
    print(d.Rows, end=": ")
    if d.Modality == "US":
        region = d.SequenceOfUltrasoundRegions[0]
        bounds = region.RegionLocationMinX0, region.RegionLocationMaxX1
        print("delta", region.PhysicalDeltaX, "bounds", *bounds, "overlay", d[0x60000010].value, end=" ")
        print("shutter", d.ShutterLeftVerticalEdge, d.ShutterRightVerticalEdge)
    else:
        print("Pixel Spacing", *map(float, d.PixelSpacing), "Imager Pixel Spacing", *map(float, d.ImagerPixelSpacing))
END
for kind in ultrasound xray; do
    expect "dcmscale's exit code" "$(status_of dcmscale +Sxf 0.5 $kind.dcm half-$kind.dcm)" 0
    expect "its words" "$(cat output.txt)" ""
done
measures() { venv/bin/python measures.py "$1"; }
expect "ultrasound" "$(measures ultrasound.dcm)" "64: delta 0.5 bounds 8 56 overlay 64 shutter 8 56"
expect "ultrasound, halved" "$(measures half-ultrasound.dcm)" "32: delta 0.5 bounds 8 56 overlay 64 shutter 8 56"
expect "X-ray" "$(measures xray.dcm)" "64: Pixel Spacing 0.5 0.5 Imager Pixel Spacing 0.5 0.5"
expect "X-ray, halved" "$(measures half-xray.dcm)" "32: Pixel Spacing 1.0 1.0 Imager Pixel Spacing 0.5 0.5"
finish
