#!/usr/bin/env bash
# Guess: DicomRTTool puts the contours of a structure set into the slices that they refer to, whatever the orientation of the
#   series: it converts the points by the geometry of the image.
# Seen: it converts them so in the plane, but takes for the slice the one whose Image Position has the nearest z. In an axial
#   series that is the same. In a coronal or sagittal one every slice has the same z: all contours land in one slice, at the
#   edge of the volume. In a series tilted by 10 degrees a structure is a slice or more off. No warning; rt-utils reads all of
#   them right.
# Matters: MR is often coronal, sagittal or tilted, and structure sets are drawn on it for MR-guided treatment. The masks are
#   where nothing was drawn, and a model trained on them learns that. Compare with the Contour Image Sequence.
# Versions: DicomRTTool 6.2.0, rt-utils 1.2.7, pydicom 3.0.2 (Python 3.11 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 dicomrttool==6.2.0 simpleitk==2.5.7 pydicom==3.0.2
python_packages other python3 rt-utils==1.2.7 pydicom==3.0.2 numpy==2.4.6 opencv-python==5.0.0.93
venv/bin/python made_up.py ct1 ct2 ct3 ct4 ct5 ct6 rtstruct
cat >series.py <<'END'
import math
import os

import numpy
import pydicom
from pydicom.dataset import Dataset

SIZE, VOXEL_MM, APART_MM, DRAWN = 32, 2, 3, (1, 2, 3)
tilt = math.radians(10)
ORIENTATIONS = {
    "axial": [1, 0, 0, 0, 1, 0],
    "coronal": [1, 0, 0, 0, 0, -1],
    "sagittal": [0, 1, 0, 0, 0, -1],
    "tilted": [1, 0, 0, 0, round(math.cos(tilt), 6), round(math.sin(tilt), 6)],
}


def item(**values):
    d = Dataset()
    for keyword, value in values.items():
        setattr(d, keyword, value)
    return d


for name, orientation in ORIENTATIONS.items():
    os.mkdir(name)
    along, down = numpy.array(orientation[:3]), numpy.array(orientation[3:])
    contours = []
    for place in range(6):
        d = pydicom.dcmread(f"CT{place + 1}")
        d.FrameOfReferenceUID = d.StudyInstanceUID + ".9"
        position = place * APART_MM * numpy.cross(along, down) + (10, 20, 30)
        d.ImagePositionPatient = [round(float(mm), 6) for mm in position]
        d.ImageOrientationPatient, d.PixelSpacing, d.SliceThickness = orientation, [VOXEL_MM, VOXEL_MM], APART_MM
        d.Rows = d.Columns = SIZE
        d.BitsAllocated, d.BitsStored, d.HighBit = 16, 16, 15
        d.PixelData = bytes(2 * SIZE * SIZE)
        d.save_as(f"{name}/{place}.dcm")
        if place in DRAWN:
            corners = ((8, 8), (18, 8), (18, 18), (8, 18))
            points = [position + VOXEL_MM * (column * along + row * down) for column, row in corners]
            image = item(ReferencedSOPClassUID=d.SOPClassUID, ReferencedSOPInstanceUID=d.SOPInstanceUID)
            contours.append(
                item(
                    ContourImageSequence=[image],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=[round(float(mm), 4) for point in points for mm in point],
                )
            )
    rt = pydicom.dcmread("RTSTRUCT")
    images = [c.ContourImageSequence[0] for c in contours]
    series = item(SeriesInstanceUID=d.SeriesInstanceUID, ContourImageSequence=images)
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=d.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    rt.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID=d.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    ]
    rt.StructureSetROISequence = [
        item(ROINumber=1, ReferencedFrameOfReferenceUID=d.FrameOfReferenceUID, ROIName="made up", ROIGenerationAlgorithm="")
    ]
    rt.ROIContourSequence = [item(ReferencedROINumber=1, ROIDisplayColor=[255, 0, 0], ContourSequence=contours)]
    rt.RTROIObservationsSequence = [
        item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="", ROIInterpreter="")
    ]
    rt.save_as(f"{name}/structures.dcm")
END
venv/bin/python series.py
cat >by_dicomrttool.py <<'END'
import sys

from DicomRTTool.ReaderWriter import DicomReaderWriter

reader = DicomReaderWriter(description="made up", arg_max=False)
reader.walk_through_folders(sys.argv[1])
reader.set_contour_names_and_associations(["made up"])
reader.get_images_and_mask()
print("slices", *(place for place, of_slice in enumerate(reader.mask[..., 1]) if of_slice.any()))
END
cat >by_rt_utils.py <<'END'
import sys

from rt_utils import RTStructBuilder

structures = RTStructBuilder.create_from(sys.argv[1], f"{sys.argv[1]}/structures.dcm")
mask = structures.get_roi_mask_by_name("made up")
print("slices", *(place for place in range(mask.shape[2]) if mask[..., place].any()))
END
# All are drawn in the slices 1, 2 and 3 of six.
for name in axial coronal sagittal tilted; do
    case $name in
    axial) seen="slices 1 2 3" ;;
    tilted) seen="slices 2 3 4" ;;
    *) seen="slices 0" ;;
    esac
    expect "$name, rt-utils" "$(other/bin/python by_rt_utils.py $name 2>/dev/null | grep slices)" "slices 1 2 3"
    expect "$name, DicomRTTool" "$(venv/bin/python by_dicomrttool.py $name 2>/dev/null | grep slices)" "$seen"
done
finish
