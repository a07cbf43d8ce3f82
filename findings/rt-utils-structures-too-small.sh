#!/usr/bin/env bash
# Guess: a structure that rt-utils makes of a mask encloses what the mask covers: its contours run along the outer edges of the
#   voxels. A square of 10 x 10 voxels of 2 mm has an area of 400 mm2 in each slice.
# Seen: the contours run through the centres of the outermost voxels, half a voxel inside on every side: 18 x 18 = 324 mm2, 19 %
#   less. A strip of 3 voxels keeps two thirds of its width, one of a single voxel becomes a line to and fro without area, and a
#   single voxel a closed contour of one point. rt-utils itself reads the whole mask back, as it counts the outline in, so that
#   a round trip shows nothing.
# Matters: who sends the result of a segmentation to a planning system this way gets smaller volumes there, most of all for
#   vessels, nerves and small lesions; volumes and doses do not agree with those of the mask. Enlarge the mask's grid (3 x 3
#   voxels for each, say) before, or compare the volumes.
# Versions: rt-utils 1.2.7, pydicom 3.0.2, numpy 2.4.6, opencv-python 5.0.0.93 (Python 3.11 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 rt-utils==1.2.7 pydicom==3.0.2 numpy==2.4.6 opencv-python==5.0.0.93
mkdir series
venv/bin/python made_up.py ct1 ct2 ct3
cat >structures.py <<'END'
import numpy
import pydicom
from rt_utils import RTStructBuilder

SIZE, VOXEL_MM = 32, 2
for number in (1, 2, 3):
    d = pydicom.dcmread(f"CT{number}")
    d.FrameOfReferenceUID = d.StudyInstanceUID + ".9"
    d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, 3 * number], [1, 0, 0, 0, 1, 0]
    d.PixelSpacing, d.SliceThickness = [VOXEL_MM, VOXEL_MM], 3
    d.Rows = d.Columns = SIZE
    d.PixelData = bytes(SIZE * SIZE)
    d.save_as(f"series/{number}.dcm")

# Height and width in voxels, all in the middle slice.
SHAPES = {"square": (10, 10), "strip": (3, 10), "line": (1, 10), "dot": (1, 1)}
structures = RTStructBuilder.create_new(dicom_series_path="series")
for name, (height, width) in SHAPES.items():
    mask = numpy.zeros((SIZE, SIZE, 3), bool)
    mask[8 : 8 + height, 8 : 8 + width, 1] = True
    structures.add_roi(mask=mask, name=name)
structures.save("structures.dcm")


def area(contour):
    """Tell what a contour in a plane of constant z encloses, in mm2."""
    points = numpy.array(contour.ContourData, float).reshape(-1, 3)
    after = numpy.roll(points, -1, axis=0)
    return abs((points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]).sum()) / 2


d = pydicom.dcmread("structures.dcm")
again = RTStructBuilder.create_from("series", "structures.dcm")
for name, roi in zip(SHAPES, d.ROIContourSequence, strict=True):
    (contour,) = roi.ContourSequence
    height, width = SHAPES[name]
    covered, read = height * width * VOXEL_MM**2, int(again.get_roi_mask_by_name(name).sum())
    print(f"{name}: mask {covered}, contour {area(contour):.0f} mm2, read back {read} voxels,", end=" ")
    print(contour.ContourGeometricType, contour.NumberOfContourPoints)
END
venv/bin/python structures.py 2>/dev/null | grep : >seen.txt
expect "10 x 10 voxels" "$(grep square seen.txt)" \
    "square: mask 400, contour 324 mm2, read back 100 voxels, CLOSED_PLANAR 4"
expect "3 x 10 voxels" "$(grep strip seen.txt)" "strip: mask 120, contour 72 mm2, read back 30 voxels, CLOSED_PLANAR 4"
expect "1 x 10 voxels" "$(grep line seen.txt)" "line: mask 40, contour 0 mm2, read back 10 voxels, CLOSED_PLANAR 2"
expect "one voxel" "$(grep dot seen.txt)" "dot: mask 4, contour 0 mm2, read back 1 voxels, CLOSED_PLANAR 1"
finish
