#!/usr/bin/env bash
# Guess: dicompyler-core takes the z of a dose plane from Grid Frame Offset Vector in either form that PS3.3 C.8.8.3.2 allows:
#   offsets from the first plane (0, 3, 6 ...), or the planes' z coordinates themselves, of which the first equals that of
#   Image Position (-6, -3, 0 ...).
# Seen: it takes every vector for offsets. Of an RT Dose with coordinates GetDoseGrid returns a plane where there is none,
#   and nothing where the dose is. get_dvh gives the DVH of what matches by chance: a structure in three slices with 53, 56
#   and 59 Gy has a mean of 59 Gy. Its volume is right, and the only trace is a warning that another plane is used "to
#   calculate contour volume". Ascending or descending, offsets are read rightly, and so are coordinates from 0 on.
# Matters: dose statistics of the systems that write coordinates are plausible and wrong, beside right ones of the others.
#   Subtract the first value from the vector before.
# Versions: dicompyler-core 0.5.6 (does not start with pydicom 3), pydicom 2.4.5, numpy 1.26.4, matplotlib
#   3.10.0; pydicom 3.0.2 makes the instances (Python 3.10 to 3.12).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 dicompyler-core==0.5.6 pydicom==2.4.5 numpy==1.26.4 matplotlib==3.10.0
python_packages maker python3 pydicom==3.0.2
maker/bin/python made_up.py ct1 rtstruct
cat >dose.py <<'END'
from array import array

import pydicom
from pydicom.dataset import Dataset

FRAME, SIZE, PLANES = "1.2.826.0.1.3680043.10.9999.1.9", 20, 6


def dose(name, first, step, is_absolute):
    """Write a dose of z + 50 Gy."""
    d = pydicom.dcmread("CT1")
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.2"
    d.Modality, d.FrameOfReferenceUID = "RTDOSE", FRAME
    d.Rows = d.Columns = SIZE
    d.NumberOfFrames, d.BitsAllocated, d.BitsStored, d.HighBit = PLANES, 16, 16, 15
    d.ImagePositionPatient, d.ImageOrientationPatient = [-19, -19, first], [1, 0, 0, 0, 1, 0]
    d.PixelSpacing, d.SliceThickness = [2, 2], 3
    d.FrameIncrementPointer, d.DoseGridScaling = 0x3004000C, 0.01
    d.DoseUnits, d.DoseType, d.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    offsets = [step * plane for plane in range(PLANES)]
    d.GridFrameOffsetVector = [first + offset for offset in offsets] if is_absolute else offsets
    d.PixelData = b"".join(array("H", [100 * (first + offset + 50)] * SIZE**2).tobytes() for offset in offsets)
    d.save_as(f"{name}.dcm")


dose("offsets", -6, 3, False)
dose("coordinates", -6, 3, True)
dose("descending", 9, -3, False)
dose("from-zero", 0, 3, True)
d = pydicom.dcmread("RTSTRUCT")
roi, contours, observation = Dataset(), Dataset(), Dataset()
roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID, roi.ROIGenerationAlgorithm = 1, "target", FRAME, ""
contours.ReferencedROINumber, contours.ContourSequence = 1, []
for z in 3, 6, 9:
    contour = Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
    contour.ContourData = [-10, -10, z, 10, -10, z, 10, 10, z, -10, 10, z]
    contours.ContourSequence.append(contour)
observation.ObservationNumber = observation.ReferencedROINumber = 1
observation.RTROIInterpretedType, observation.ROIInterpreter = "PTV", ""
d.StructureSetROISequence, d.ROIContourSequence, d.RTROIObservationsSequence = [roi], [contours], [observation]
d.save_as("structures.dcm")
END
maker/bin/python dose.py
cat >dvh.py <<'END'
import sys

from dicompylercore import dicomparser, dvhcalc

name = sys.argv[1] + ".dcm"
parser = dicomparser.DicomParser(name)
for z in -9, 6:
    plane = parser.GetDoseGrid(z)
    print(f"z={z}:", round(plane[0][0] * parser.ds.DoseGridScaling) if len(plane) else "none", end=", ")
dvh = dvhcalc.get_dvh("structures.dcm", name, 1)
print(f"volume {dvh.volume:.1f}, mean {dvh.mean:.0f}")
END
# told NAME: dose at z = -9, which is outside of every grid, and 6; volume (cm3) and mean dose (Gy) of the structure. Warnings go
# to warnings-NAME.txt.
told() {
    venv/bin/python dvh.py "$1" 2>"warnings-$1.txt"
}
expect "offsets" "$(told offsets)" "z=-9: none, z=6: 56, volume 3.6, mean 56"
expect "descending offsets" "$(told descending)" "z=-9: none, z=6: 56, volume 3.6, mean 56"
expect "coordinates" "$(told coordinates)" "z=-9: 47, z=6: none, volume 3.6, mean 59"
expect "coordinates from 0 on" "$(told from-zero)" "z=-9: none, z=6: 56, volume 3.6, mean 56"
expect "warnings" "$(grep -c 'to calculate contour volume' warnings-coordinates.txt)" 2
finish
