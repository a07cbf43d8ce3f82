#!/usr/bin/env bash
# Guess: with pydicom's decoder plugins more is better. Where pyjpegls reads a JPEG-LS image, it stays readable frame by frame
#   (pydicom.iter_pixels) when python-gdcm is installed beside it: if one plugin fails, the next is tried.
# Seen: for signed pixels of fewer bits than are allocated, as in many CT images, iter_pixels and Decoder.iter_array
#   work with pyjpegls and raise "ValueError: output array is read-only" once python-gdcm is there: gdcm is asked first, its frame
#   is read-only, and the sign correction works in place. That comes after the plugins, so none other is tried.
#   pixel_array, pixel_array(index=0) and iter_pixels(indices=[0]) read the same file with either plugin, and unsigned pixels
#   and RLE or 16 of 16 bits never fail.
# Matters: a checker of an archive that goes by frames to save memory begins to fail on good JPEG-LS CT the day somebody installs
#   one more package. Name the plugin (decoding_plugin="pyjpegls"), or give the indices.
# Versions: pydicom 3.0.2, pyjpegls 1.5.1, python-gdcm 3.2.6, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 pydicom==3.0.2 pyjpegls==1.5.1 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >make.py <<'END'
import numpy as np
import pydicom
from pydicom.uid import JPEGLSLossless, RLELossless

pixels = np.arange(4096, dtype="<i2").reshape(64, 64) - 2048
for name, syntax, stored, signed in (
    ("signed", JPEGLSLossless, 12, 1),
    ("unsigned", JPEGLSLossless, 12, 0),
    ("16-of-16", JPEGLSLossless, 16, 1),
    ("rle", RLELossless, 12, 1),
):
    d = pydicom.dcmread("CT1")
    d.Rows = d.Columns = 64
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, stored, stored - 1, signed
    d.PixelData = (pixels if signed else pixels + 2048).tobytes()
    d.compress(syntax)
    d.save_as(name + ".dcm")
END
venv/bin/python make.py
cat >read.py <<'END'
import sys

import numpy as np
from pydicom.pixels import iter_pixels, pixel_array

expected = np.arange(4096).reshape(64, 64) - (0 if sys.argv[1] == "unsigned.dcm" else 2048)
options = {"decoding_plugin": sys.argv[2]} if len(sys.argv) > 2 else {}
for read in (
    lambda path: pixel_array(path, **options),
    lambda path: pixel_array(path, index=0, **options),
    lambda path: next(iter_pixels(path, indices=[0], **options)),
    lambda path: next(iter_pixels(path, **options)),
):
    try:
        print("right" if (read(sys.argv[1]) == expected).all() else "wrong pixels")
    except ValueError as error:
        print(f"ValueError: {error}")
END
read_by() { venv/bin/python read.py "$@" | paste -sd,; }
fine="right,right,right,right"
expect "pyjpegls alone" "$(read_by signed.dcm)" "$fine"
venv/bin/pip install --quiet --disable-pip-version-check python-gdcm==3.2.6
echo "python-gdcm==3.2.6"
expect "with python-gdcm" "$(read_by signed.dcm)" "right,right,right,ValueError: output array is read-only"
expect "with python-gdcm, plugin pyjpegls" "$(read_by signed.dcm pyjpegls)" "$fine"
for kind in unsigned 16-of-16 rle; do
    expect "with python-gdcm, $kind" "$(read_by $kind.dcm)" "$fine"
done
finish
