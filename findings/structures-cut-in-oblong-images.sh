#!/usr/bin/env bash
# Guess: platipy's convert_rtstruct and rt-utils fill a contour wherever it is in the image, and give the mask of a structure in an
#   image of 32 columns and 20 rows as they do in a square one.
# Seen: both cut a structure where x reaches the number of rows, or y the number of columns: in an image of 32 x 20 a square of 10
#   x 10 pixels from column 16 to 25 keeps 4 of its columns, and one from column 21 on is an empty mask. The same in an image of
#   20 x 32 for rows. platipy writes the file with the geometry of the image, rt-utils gives an array of 32 rows and 20 columns.
#   No exception, no warning. The same structure in 32 x 32 is whole in both.
# Matters: CT is square, MR often is not, and the part that is lost is at the right or at the bottom: in an axial image the
#   patient's left side, or the back. Volumes, doses and training masks are smaller, or empty as for an organ that was not drawn.
#   Compare the mask's volume with that of the contours, or pad the images to a square.
# Versions: platipy 0.7.2 with pydicom 2.4.5, SimpleITK 2.5.7, scikit-image 0.26.0, numpy 2.4.6; rt-utils 1.2.7 with pydicom
#   3.0.2, numpy 2.4.6, opencv-python 5.0.0.93 (Python 3.11 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 platipy==0.7.2 pydicom==2.4.5 simpleitk==2.5.7 scikit-image==0.26.0 numpy==2.4.6
python_packages other python3 rt-utils==1.2.7 pydicom==3.0.2 numpy==2.4.6 opencv-python==5.0.0.93
other/bin/python made_up.py ct1 ct2 ct3 rtstruct
cat >series.py <<'END'
import os

import pydicom
from pydicom.dataset import Dataset

SLICES, APART_MM, SIDE = 3, 3, 10


def item(**values):
    d = Dataset()
    for keyword, value in values.items():
        setattr(d, keyword, value)
    return d


def write(name, columns, rows, left, top):
    """A series and a structure: a square whose first pixel is at (left, top), drawn in the middle slice."""
    os.mkdir(name)
    for place in range(SLICES):
        d = pydicom.dcmread(f"CT{place + 1}")
        d.FrameOfReferenceUID = d.StudyInstanceUID + ".9"
        d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, APART_MM * place], [1, 0, 0, 0, 1, 0]
        d.PixelSpacing, d.SliceThickness = [1, 1], APART_MM
        d.Rows, d.Columns = rows, columns
        d.PixelData = bytes(rows * columns)
        d.save_as(f"{name}/{place}.dcm")
    middle = pydicom.dcmread(f"{name}/1.dcm")
    image = item(ReferencedSOPClassUID=middle.SOPClassUID, ReferencedSOPInstanceUID=middle.SOPInstanceUID)
    right, bottom = left + SIDE - 1, top + SIDE - 1
    points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    contour = item(
        ContourImageSequence=[image],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[mm for x, y in points for mm in (x, y, APART_MM)],
    )
    rt = pydicom.dcmread("RTSTRUCT")
    series = item(SeriesInstanceUID=middle.SeriesInstanceUID, ContourImageSequence=[image])
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=middle.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    frame = middle.FrameOfReferenceUID
    rt.ReferencedFrameOfReferenceSequence = [item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
    rt.StructureSetROISequence = [
        item(ROINumber=1, ReferencedFrameOfReferenceUID=frame, ROIName="square", ROIGenerationAlgorithm="")
    ]
    rt.ROIContourSequence = [item(ReferencedROINumber=1, ROIDisplayColor=[255, 0, 0], ContourSequence=[contour])]
    rt.RTROIObservationsSequence = [
        item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="", ROIInterpreter="")
    ]
    rt.save_as(f"{name}.structures")


write("square", 32, 32, 16, 5)
write("wide", 32, 20, 16, 5)
write("wide-right", 32, 20, 21, 5)
write("wide-left", 32, 20, 5, 5)
write("high", 20, 32, 5, 16)
END
other/bin/python series.py
cat >by_platipy.py <<'END'
import sys

import SimpleITK
from platipy.dicom.io.rtstruct_to_nifti import convert_rtstruct

convert_rtstruct(sys.argv[1], f"{sys.argv[1]}.structures", prefix=f"{sys.argv[1]}-")
mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(f"{sys.argv[1]}-square.nii.gz"))
print(*mask.shape[::-1], "pixels", int(mask.sum()))
END
cat >by_rt_utils.py <<'END'
import sys

from rt_utils import RTStructBuilder

mask = RTStructBuilder.create_from(sys.argv[1], f"{sys.argv[1]}.structures").get_roi_mask_by_name("square")
rows, columns, slices = mask.shape
print(columns, rows, slices, "pixels", int(mask.sum()))
END
# drawn SERIES BY_RT_UTILS BY_PLATIPY: columns, rows and slices of the mask, and how many of its pixels are set.
drawn() {
    expect "$1, rt-utils" "$(other/bin/python -W ignore by_rt_utils.py "$1")" "$2"
    expect "$1, platipy" "$(venv/bin/python -W ignore by_platipy.py "$1" 2>&1)" "$3"
}
drawn square "32 32 3 pixels 100" "32 32 3 pixels 100"
drawn wide-left "20 32 3 pixels 100" "32 20 3 pixels 100"
drawn wide "20 32 3 pixels 40" "32 20 3 pixels 40"
drawn wide-right "20 32 3 pixels 0" "32 20 3 pixels 0"
drawn high "32 20 3 pixels 40" "20 32 3 pixels 40"
finish
