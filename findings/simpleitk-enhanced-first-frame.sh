#!/usr/bin/env bash
# Guess: SimpleITK reads an enhanced multi-frame image, in which each frame has a Rescale Slope of its own, with these slopes, or
#   refuses it. The order of the frames, which is free, changes at most the third axis.
# Seen: it multiplies every frame by the slope of the first, without a word. Made of PET slices by highdicom (legacy converted
#   enhanced PET), an image comes back with other values in every frame but one; the same slices as single files, and highdicom
#   itself, are right. When frames are not at even distances, all spacing is gone: 1, 1, 1 in place of 2, 2, 3, the Pixel
#   Spacing too, which all frames share. So it is with frames in another order, and with a segmentation by highdicom that has an
#   empty slice between others, since it leaves empty frames out by default.
# Matters: PET, and MR of a vendor that scales each slice, come as single files from one archive and as enhanced ones from the
#   next. Uptake and volumes measured on the second are wrong and look plausible. Look at the Pixel Value Transformation
#   Sequence and the Plane Position Sequence of all frames first, or read with highdicom.
# Versions: SimpleITK 2.5.7, highdicom 0.28.2, pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 simpleitk==2.5.7 highdicom==0.28.2 pydicom==3.0.2 numpy==2.2.6
venv/bin/python made_up.py ct1 ct2 ct3 ct4
cat >enhance.py <<'END'
import highdicom
import numpy
import pydicom
from highdicom.legacy import LegacyConvertedEnhancedPETImage
from pydicom.sr.codedict import codes

SLOPES = [0.5, 2, 3, 0.25]
slices = []
for number, slope in enumerate(SLOPES, 1):
    d = pydicom.dcmread(f"CT{number}")
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
    d.Modality, d.Units, d.ImageType, d.Manufacturer = "PT", "BQML", ["ORIGINAL", "PRIMARY"], "made up"
    d.AcquisitionDate, d.AcquisitionTime = "20200101", "120000"
    d.SeriesDate, d.SeriesTime, d.SeriesDescription = "20200101", "120000", "made up"
    d.FrameOfReferenceUID = d.StudyInstanceUID + ".9"
    d.ImagePositionPatient, d.ImageOrientationPatient = [10, 20, 3 * number], [1, 0, 0, 0, 1, 0]
    d.PixelSpacing, d.SliceThickness, d.PatientPosition = [2, 2], 3, "HFS"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.PixelData = numpy.full((16, 16), 100, "<u2").tobytes()
    d.RescaleIntercept, d.RescaleSlope = 0, slope
    d.save_as(f"slice{number}.dcm")
    slices.append(d)

image = LegacyConvertedEnhancedPETImage(
    slices,
    series_instance_uid=slices[0].StudyInstanceUID + ".2",
    series_number=2,
    sop_instance_uid=slices[0].StudyInstanceUID + ".2.1",
    instance_number=1,
)
image.save_as("in_order.dcm")
# The pixels of all frames are alike, so that another order of the frames is another order of what is said of them.
frames = list(image.PerFrameFunctionalGroupsSequence)
image.PerFrameFunctionalGroupsSequence = [frames[place] for place in (0, 2, 1, 3)]
image.save_as("out_of_order.dcm")

segment = highdicom.seg.SegmentDescription(
    1, "made up", codes.SCT.Organ, codes.SCT.Liver, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
)
mask = numpy.ones((4, 16, 16), numpy.uint8)
mask[2] = 0
for name, omit_empty in ("with_gap", True), ("without_gap", False):
    highdicom.seg.Segmentation(
        slices,
        mask,
        "BINARY",
        [segment],
        series_instance_uid=slices[0].StudyInstanceUID + ".3",
        series_number=3,
        sop_instance_uid=slices[0].StudyInstanceUID + ".3.1",
        instance_number=1,
        manufacturer="made up",
        manufacturer_model_name="made up",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=omit_empty,
    ).save_as(f"{name}.dcm")
END
venv/bin/python enhance.py 2>enhance.log || { cat enhance.log; exit 1; }
cat >read.py <<'END'
import sys

import highdicom
import SimpleITK


def by_highdicom(path):
    return [float(frame.max()) for frame in highdicom.imread(path).get_frames()]


def by_simpleitk(path):
    return [float(frame.max()) for frame in SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))]


def spacing(path):
    return SimpleITK.ReadImage(path).GetSpacing()


def highdicom_spacing(path):
    return highdicom.imread(path).get_volume().spacing


def segmentation_spacing(path):
    return highdicom.seg.segread(path).get_volume().spacing


print(*globals()[sys.argv[1]](sys.argv[2]))
END
read_by() { venv/bin/python read.py "$@" 2>&1; }
for number in 1 2 3 4; do
    read_by by_simpleitk "slice$number.dcm"
done >alone.txt
expect "the slices as single files, SimpleITK" "$(paste -sd' ' alone.txt)" "50.0 200.0 300.0 25.0"
# highdicom has written the frames from the last position to the first.
expect "one enhanced image, highdicom" "$(read_by by_highdicom in_order.dcm)" "25.0 300.0 200.0 50.0"
expect "one enhanced image, SimpleITK" "$(read_by by_simpleitk in_order.dcm)" "25.0 25.0 25.0 25.0"
expect "its spacing, SimpleITK" "$(read_by spacing in_order.dcm)" "2.0 2.0 3.0"
expect "frames in another order, highdicom" "$(read_by by_highdicom out_of_order.dcm)" "25.0 200.0 300.0 50.0"
expect "frames in another order, SimpleITK" "$(read_by by_simpleitk out_of_order.dcm)" "25.0 25.0 25.0 25.0"
expect "their spacing, SimpleITK" "$(read_by spacing out_of_order.dcm)" "1.0 1.0 1.0"
expect "their spacing, highdicom (slices first)" "$(read_by highdicom_spacing out_of_order.dcm)" "3.0 2.0 2.0"
expect "a segmentation of all slices, SimpleITK" "$(read_by spacing without_gap.dcm)" "2.0 2.0 3.0"
expect "one without its empty slice, SimpleITK" "$(read_by spacing with_gap.dcm)" "1.0 1.0 1.0"
expect "the same, highdicom (slices first)" "$(read_by segmentation_spacing with_gap.dcm)" "3.0 2.0 2.0"
finish
