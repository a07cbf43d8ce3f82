#!/usr/bin/env bash
# Guess: vtkDICOMImageReader, which rescales what it reads, gives -2 times 0.5 as -1, as it gives -2 times 2 as -4.
# Seen: when Rescale Slope or Rescale Intercept has a fraction it reads signed samples as unsigned: -2 times 0.5 is 32767, and
#   -100 with an intercept of 0.5 is 65436.5. Positive samples are right, and so is everything when both numbers are whole, and
#   unsigned samples always. No warning; pydicom is right in each.
# Matters: CT has a slope of 1, and no test with CT shows it. PET, cone beam CT, perfusion and difference images have signed
#   samples and a fractional slope, and where a value is below zero the volume has its largest one: a threshold, a maximum
#   projection, an average are ruined by a few voxels of noise. Read with pydicom or SimpleITK.
# Versions: vtk 9.7.1, pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 vtk==9.7.1 pydicom==3.0.2 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >rescale.py <<'END'
import os
import sys

import numpy
import pydicom
import vtkmodules.vtkIOImage as vtk_readers
from pydicom.pixels import apply_rescale
from vtkmodules.util.numpy_support import vtk_to_numpy

VALUES = (-100, -2, 0, 100)
kind, slope, intercept = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
d = pydicom.dcmread("CT1")
d.Rows = d.Columns = 2
d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, int(kind == "signed")
d.RescaleSlope, d.RescaleIntercept = slope, intercept
d.ImagePositionPatient, d.ImageOrientationPatient, d.PixelSpacing = [0, 0, 0], [1, 0, 0, 0, 1, 0], [1, 1]
d.PixelData = numpy.array(VALUES if kind == "signed" else numpy.abs(VALUES)).astype("<i2").tobytes()
os.makedirs("slices", exist_ok=True)
d.save_as("slices/1.dcm")
reader = vtk_readers.vtkDICOMImageReader()
reader.SetDirectoryName("slices")
reader.Update()
# The reader turns the rows over.
by_vtk = vtk_to_numpy(reader.GetOutput().GetPointData().GetScalars()).reshape(2, 2)[::-1].ravel()
by_pydicom = apply_rescale(d.pixel_array, d).ravel()
for name, values in (("vtk", by_vtk), ("pydicom", by_pydicom)):
    print(f"{name}:", *(f"{value:g}" for value in values))
END
# rescaled KIND SLOPE INTERCEPT BY_PYDICOM BY_VTK
rescaled() {
    venv/bin/python rescale.py "$1" "$2" "$3" >seen.txt 2>&1 || true
    expect "$1, slope $2, intercept $3, pydicom" "$(sed -n 's/^pydicom: //p' seen.txt)" "$4"
    expect "$1, slope $2, intercept $3, vtk" "$(sed -n 's/^vtk: //p' seen.txt)" "$5"
    expect "$1, slope $2, intercept $3, lines of other text" "$(grep -vc ': ' seen.txt)" 0
}
rescaled signed 1 0 "-100 -2 0 100" "-100 -2 0 100"
rescaled signed 2 -10 "-210 -14 -10 190" "-210 -14 -10 190"
rescaled signed 0.5 0 "-50 -1 0 50" "32718 32767 0 50"
rescaled signed 1.5 -10 "-160 -13 -10 140" "98144 98291 -10 140"
rescaled signed 1 0.5 "-99.5 -1.5 0.5 100.5" "65436.5 65534.5 0.5 100.5"
rescaled unsigned 0.5 0 "50 1 0 50" "50 1 0 50"
finish
