#!/usr/bin/env bash
# Guess: dcmjs-codecs compresses grey images of any valid depth to JPEG 2000, HTJ2K, JPEG-LS and JPEG lossless so that each
#   reader gets the same samples back, or refuses.
# Seen: two kinds come out otherwise. An image of 8 bits stored in 16 allocated loses its right half in JPEG 2000: the encoder
#   takes the bytes of a 16-bit sample for two samples, so that the left half is spread over the width with black columns
#   between. A signed image of 12 bits, as CT, becomes a JPEG lossless stream that says 12 bits and has 16: DCMTK and GDCM read
#   it rightly, and pydicom with pylibjpeg gives -1 for each negative sample, without a word. Unsigned or 16 of 16 bits,
#   JPEG-LS, HTJ2K and RLE are right. gdcmconv's --j2k and --jpeg are right with both.
# Matters: for an archive compressed in place, or converted on the way by dcmjs-dimse, which uses this library. CT loses air and
#   fat in one reader and shows them in the next; the first kind is lost for good. Compare decoded pixels, with two decoders.
# Versions: dcmjs-codecs 0.0.8 with dcmjs 0.52.2 (npm; Node.js 18 or later), Debian dcmtk 3.6.7-9~deb12u4, libgdcm-tools
#   3.0.21-1, pydicom 3.0.2 with pylibjpeg 2.1.0, pylibjpeg-libjpeg 2.5.0, pylibjpeg-openjpeg 2.6.0, pyjpegls 1.5.1 and numpy
#   2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian libgdcm-tools 3.0.21
python_packages venv python3 pydicom==3.0.2 pylibjpeg==2.1.0 pylibjpeg-libjpeg==2.5.0 pylibjpeg-openjpeg==2.6.0 \
    pyjpegls==1.5.1 numpy==2.2.6
dcmjs_codecs
venv/bin/python made_up.py ct1
cat >images.py <<'END'
import numpy
import pydicom

d = pydicom.dcmread("CT1")
d.Rows = d.Columns = 64
d.BitsAllocated = 16
samples = numpy.arange(64 * 64)
for name, stored, signed, pixels in (
    ("unsigned8", 8, 0, (samples % 64 + 1).astype("<u2")),
    ("unsigned12", 12, 0, samples.astype("<u2")),
    ("signed12", 12, 1, (samples - 2048).astype("<i2")),
    ("signed16", 16, 1, (samples * 16 - 32768).astype("<i2")),
):
    d.BitsStored, d.HighBit, d.PixelRepresentation = stored, stored - 1, signed
    d.add_new("PixelData", "OW", pixels.tobytes())
    d.save_as(f"{name}.dcm")
END
venv/bin/python images.py
# like FILE OTHER: whether pydicom reads the same samples in both, and if not, which of the other ones tell it.
cat >like.py <<'END'
import sys

import pydicom
from pydicom.pixels import pixel_array

one, other = (pixel_array(pydicom.dcmread(name)) for name in sys.argv[1:])
if other.shape == one.shape and (other == one).all():
    print("same")
elif (other < 0).any():
    print("negative samples:", *sorted({int(value) for value in other[other < 0]}))
else:
    print("first row:", *map(int, other[0, :5]), "... last sample", int(other[0, -2]))
END
like() { venv/bin/python like.py "$1.dcm" "$2.dcm" 2>&1 | tail -1; }
compressed() { node compress.js "$1.dcm" "1.2.840.10008.1.2.$2" out.dcm && like "$1" out; }
for syntax in 4.90 4.201 4.80 4.70 5; do
    expect "12 bits unsigned to .1.2.$syntax" "$(compressed unsigned12 $syntax)" same
    expect "16 bits signed to .1.2.$syntax" "$(compressed signed16 $syntax)" same
done
for syntax in 4.201 4.80 5; do
    expect "8 of 16 bits to .1.2.$syntax" "$(compressed unsigned8 $syntax)" same
done
expect "8 of 16 bits to JPEG 2000" "$(compressed unsigned8 4.90)" "first row: 1 0 2 0 3 ... last sample 32"
gdcmconv --j2k unsigned8.dcm gdcmconv.dcm
expect "8 of 16 bits to JPEG 2000 by gdcmconv" "$(like unsigned8 gdcmconv)" same
for syntax in 4.90 4.201 4.80 5; do
    expect "12 bits signed to .1.2.$syntax" "$(compressed signed12 $syntax)" same
done
expect "12 bits signed to JPEG lossless" "$(compressed signed12 4.70)" "negative samples: -1"
dcmdjpeg out.dcm dcmdjpeg.dcm
expect "the same, decompressed by DCMTK" "$(like signed12 dcmdjpeg)" same
gdcmconv --raw out.dcm gdcmconv.dcm
expect "the same, decompressed by GDCM" "$(like signed12 gdcmconv)" same
gdcmconv --jpeg signed12.dcm gdcmconv.dcm
expect "12 bits signed to JPEG lossless by gdcmconv" "$(like signed12 gdcmconv)" same
finish
