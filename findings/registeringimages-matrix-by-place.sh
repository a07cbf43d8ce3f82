#!/usr/bin/env bash
# Guess: RegisteringImages, given a DICOM registration and the Series Instance UID of the moving image, looks up the matrix of the
#   Frame of Reference that this series is in, and applies all of its matrices in turn (PS3.3 C.20.2).
# Seen: it looks for the series in Referenced Series Sequence, and takes the item of Registration Sequence that has the same place.
#   These are two lists with an order of their own. When the moving series is listed first, or alone, it gets the first item,
#   which is as a rule the fixed image's with the identity: the image comes back as it was, without a word, where it should
#   have moved by 10 mm. Of two matrices it applies the last. With both lists in the same order and one matrix it is right.
# Matters: dose is summed and tumours are compared on what it returns, and an image that has not been moved looks like one that
#   needed no registration. Pass the matrix itself (register_images_with_dicom_reg), found by Frame of Reference UID.
# Versions: RegisteringImages 0.1.3, SimpleITK 2.5.7, pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 registeringimages==0.1.3 simpleitk==2.5.7 pydicom==3.0.2 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >registered.py <<'END'
import numpy
import pydicom
import SimpleITK
from pydicom.dataset import Dataset
from RegisterImages.WithDicomReg import registerDicom

ROOT = "1.2.826.0.1.3680043.10.9999.4"
FIXED, MOVING = ROOT + ".1", ROOT + ".2"
IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def item(**values):
    d = Dataset()
    for keyword, value in values.items():
        setattr(d, keyword, value)
    return d


def moved(mm):
    return [*IDENTITY[:3], mm, *IDENTITY[4:]]


def frame_of_reference(series):
    return series + ".9"


def registration(listed, *matrices):
    """A registration of the moving image to the fixed one, whose Referenced Series Sequence has these series."""
    d = pydicom.dcmread("CT1")
    for keyword in [e.keyword for e in d.group_dataset(0x28)] + ["PixelData", "ImageType"]:
        del d[keyword]
    d.SOPClassUID, d.Modality = "1.2.840.10008.5.1.4.1.1.66.1", "REG"
    d.ContentLabel, d.ContentDescription, d.ContentCreatorName = "MADE_UP", "", ""
    d.FrameOfReferenceUID, d.PositionReferenceIndicator = frame_of_reference(FIXED), ""
    d.ReferencedSeriesSequence = [
        item(
            SeriesInstanceUID=series,
            ReferencedInstanceSequence=[
                item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=series + ".1")
            ],
        )
        for series in listed
    ]
    d.RegistrationSequence = [
        item(
            FrameOfReferenceUID=frame_of_reference(series),
            MatrixRegistrationSequence=[
                item(
                    RegistrationTypeCodeSequence=[],
                    MatrixSequence=[
                        item(FrameOfReferenceTransformationMatrix=matrix, FrameOfReferenceTransformationMatrixType="RIGID")
                        for matrix in steps
                    ],
                )
            ],
        )
        for series, steps in ((FIXED, [IDENTITY]), (MOVING, matrices))
    ]
    return d


def place(image):
    """The x in mm of the one bright voxel."""
    values = SimpleITK.GetArrayFromImage(image)
    z, y, x = (int(index) for index in numpy.argwhere(values == 1000)[0])
    return image.TransformIndexToPhysicalPoint((x, y, z))[0]


image = SimpleITK.Image(40, 8, 8, SimpleITK.sitkInt16)
image[5, 4, 4] = 1000
print(f"before: {place(image):g} mm")
for name, listed, matrices in (
    ("fixed, moving", (FIXED, MOVING), (moved(10),)),
    ("moving, fixed", (MOVING, FIXED), (moved(10),)),
    ("moving alone", (MOVING,), (moved(10),)),
    ("two matrices", (FIXED, MOVING), (moved(10), moved(4))),
):
    result = registerDicom(image, image, MOVING, registration(listed, *matrices), method=SimpleITK.sitkNearestNeighbor)
    print(f"{name}: {place(result):g} mm")
END
venv/bin/python registered.py >seen.txt
cat seen.txt
expect "before" "$(sed -n 's/^before: //p' seen.txt)" "5 mm"
expect "fixed and moving series listed, moved by 10 mm" "$(sed -n 's/^fixed, moving: //p' seen.txt)" "15 mm"
expect "moving and fixed series listed, moved by 10 mm" "$(sed -n 's/^moving, fixed: //p' seen.txt)" "5 mm"
expect "moving series listed, moved by 10 mm" "$(sed -n 's/^moving alone: //p' seen.txt)" "5 mm"
expect "moved by 10 mm and by 4 mm" "$(sed -n 's/^two matrices: //p' seen.txt)" "9 mm"
expect "lines of other text" "$(grep -vc ' mm$' seen.txt)" 0
finish
