#!/usr/bin/env bash
# Guess: a lossless codec keeps an overlay that lies in the unused bits of the pixels (Overlay Bit Position 12 beside 12 bits
#   stored, in the standard until 2004), or moves it to Overlay Data. What cannot do either says so.
# Seen: pydicom's compress() to JPEG-LS or JPEG 2000 clears these bits, and so does decompress() of an RLE image that has them,
#   its own or another's. The group 6000 stays, and points at bits that are all 0: the overlay is empty. Not a word. The pixels
#   are right. DCMTK (RLE, JPEG-LS, JPEG lossless) keeps the bits there and back, and GDCM (RLE, JPEG-LS) moves them to Overlay
#   Data.
# Matters: old archives have graphics in these bits: regions, scales, annotations, marks of the reader. Everything says that the
#   conversion was lossless, a comparison by pixel_array finds no difference (it has only the bits stored), and the viewer shows
#   the image without them. Look for Overlay Bit Position other than 0 first, and compare Pixel Data byte by byte.
# Versions: pydicom 3.0.2 with pyjpegls 1.5.1, pylibjpeg 2.1.0, pylibjpeg-openjpeg 2.6.0 and numpy 2.2.6 (Python 3.10 or later),
#   Debian dcmtk 3.6.7-9~deb12u4, libgdcm-tools 3.0.21-1.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian libgdcm-tools 3.0.21
python_packages venv python3 pydicom==3.0.2 pyjpegls==1.5.1 pylibjpeg==2.1.0 pylibjpeg-openjpeg==2.6.0 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >overlay.py <<'END'
import numpy
import pydicom

d = pydicom.dcmread("CT1")
d.Rows = d.Columns = 64
d.BitsAllocated, d.BitsStored, d.HighBit = 16, 12, 11
pixels = numpy.arange(4096, dtype="<u2")
pixels[100:200] |= 1 << 12
d.add_new("PixelData", "OW", pixels.tobytes())
d.add_new(0x60000010, "US", 64)
d.add_new(0x60000011, "US", 64)
d.add_new(0x60000040, "CS", "G")
d.add_new(0x60000050, "SS", [1, 1])
d.add_new(0x60000100, "US", 16)
d.add_new(0x60000102, "US", 12)
d.save_as("overlay.dcm")
END
venv/bin/python overlay.py
cat >by_pydicom.py <<'END'
import sys

import pydicom

d = pydicom.dcmread(sys.argv[1])
if len(sys.argv) > 3:
    d.compress("1.2.840.10008.1.2." + sys.argv[3])
else:
    d.decompress()
d.save_as(sys.argv[2])
END
# marks FILE: of a native image, how many pixels the overlay marks, where it is, and whether the pixels are right.
cat >marks.py <<'END'
import sys

import numpy
import pydicom

d = pydicom.dcmread(sys.argv[1])
stored, position = numpy.frombuffer(d.PixelData, "<u2"), d[0x60000102].value
if 0x60003000 in d:
    marks, place = numpy.unpackbits(numpy.frombuffer(d[0x60003000].value, "u1")).sum(), "in Overlay Data"
else:
    marks, place = (stored >> position & 1).sum(), f"in bit {position}"
print(marks, "marks", place, "pixels right" if ((stored & 4095) == numpy.arange(4096)).all() else "pixels wrong")
END
marks() { venv/bin/python marks.py "$1.dcm"; }
pydicom() { venv/bin/python by_pydicom.py "$@" >words.txt 2>&1; }
expect "as it was" "$(marks overlay)" "100 marks in bit 12 pixels right"
dcmcrle overlay.dcm rle.dcm
dcmdrle rle.dcm back.dcm
expect "RLE by DCMTK, decompressed by DCMTK" "$(marks back)" "100 marks in bit 12 pixels right"
dcmcjpls overlay.dcm jpegls.dcm
dcmdjpls jpegls.dcm back.dcm
expect "JPEG-LS by DCMTK, decompressed by DCMTK" "$(marks back)" "100 marks in bit 12 pixels right"
dcmcjpeg overlay.dcm jpeg.dcm
dcmdjpeg jpeg.dcm back.dcm
expect "JPEG lossless by DCMTK, decompressed by DCMTK" "$(marks back)" "100 marks in bit 12 pixels right"
for codec in rle jpegls; do
    gdcmconv --$codec overlay.dcm by_gdcm.dcm
    gdcmconv --raw by_gdcm.dcm back.dcm
    expect "$codec by GDCM, decompressed by GDCM" "$(marks back)" "100 marks in Overlay Data pixels right"
done
pydicom rle.dcm back.dcm
expect "RLE by DCMTK, decompressed by pydicom" "$(marks back)" "0 marks in bit 12 pixels right"
expect "its words" "$(cat words.txt)" ""
pydicom jpegls.dcm back.dcm
expect "JPEG-LS by DCMTK, decompressed by pydicom" "$(marks back)" "100 marks in bit 12 pixels right"
pydicom overlay.dcm rle.dcm 5
expect "words when compressing to RLE by pydicom" "$(cat words.txt)" ""
dcmdrle rle.dcm back.dcm
expect "RLE by pydicom, decompressed by DCMTK" "$(marks back)" "100 marks in bit 12 pixels right"
pydicom rle.dcm back.dcm
expect "RLE by pydicom, decompressed by pydicom" "$(marks back)" "0 marks in bit 12 pixels right"
for syntax in 4.80 4.90; do
    pydicom overlay.dcm by_pydicom.dcm $syntax
    expect "words when compressing to .1.2.$syntax by pydicom" "$(cat words.txt)" ""
    pydicom by_pydicom.dcm back.dcm
    expect "and decompressed by pydicom" "$(marks back)" "0 marks in bit 12 pixels right"
    gdcmconv --raw by_pydicom.dcm back.dcm
    expect "and decompressed by GDCM" "$(marks back)" "0 marks in Overlay Data pixels right"
done
finish
