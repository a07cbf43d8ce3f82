#!/usr/bin/env bash
# Guess: dcmjs-codecs, which compresses a native image without loss (JPEG-LS, JPEG 2000, HTJ2K), keeps the samples of a colour
#   image with Photometric Interpretation YBR_FULL, or converts them to RGB and labels them so.
# Seen: it converts them to RGB, and leaves the label YBR_FULL. Whatever decodes by the label converts once more: a red (200, 0,
#   0) is shown as (21, 255, 0). Decompressing does not convert back, by dcmjs-codecs itself no more than by DCMTK, GDCM or
#   pydicom. JPEG lossless keeps the samples, and names the components R, G and B, for which pydicom takes them. RLE is right,
#   and RGB is in each of them.
# Matters: native YBR_FULL is what ultrasound devices and RLE archives have. A conversion that is called lossless ruins the
#   colours of these and not of others; Doppler colours are then another velocity. Convert to RGB before, or take RLE.
# Versions: dcmjs-codecs 0.0.8 with dcmjs 0.52.2 (npm; Node.js 18 or later), Debian dcmtk 3.6.7-9~deb12u4, libgdcm-tools
#   3.0.21-1, pydicom 3.0.2 with pylibjpeg 2.1.0, pylibjpeg-libjpeg 2.5.0, pylibjpeg-openjpeg 2.6.0 and numpy 2.2.6 (Python 3.10
#   or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian libgdcm-tools 3.0.21
python_packages venv python3 pydicom==3.0.2 pylibjpeg==2.1.0 pylibjpeg-libjpeg==2.5.0 pylibjpeg-openjpeg==2.6.0 numpy==2.2.6
dcmjs_codecs
venv/bin/python made_up.py ct1
cat >red.py <<'END'
import numpy
import pydicom
from pydicom.pixels import convert_color_space

d = pydicom.dcmread("CT1")
d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
d.Modality, d.SamplesPerPixel, d.PlanarConfiguration = "US", 3, 0
d.Rows = d.Columns = 64
rgb = numpy.full((64, 64, 3), (200, 0, 0), "u1")
for photometric, pixels in ("RGB", rgb), ("YBR_FULL", convert_color_space(rgb, "RGB", "YBR_FULL")):
    d.PhotometricInterpretation = photometric
    d.add_new("PixelData", "OB", pixels.tobytes())
    d.save_as(f"{photometric}.dcm")
END
venv/bin/python red.py
cat >colour.py <<'END'
import sys

import pydicom
from pydicom.pixels import pixel_array

for name in sys.argv[1:]:
    d = pydicom.dcmread(name)
    print(d.PhotometricInterpretation, "samples", *map(int, pixel_array(d, raw=True)[0, 0]), end=" ")
    print("colour", *map(int, pixel_array(d)[0, 0]))
END
colour() { venv/bin/python colour.py "$1"; }
compressed() { node compress.js "$1.dcm" "1.2.840.10008.1.2.$2" out.dcm && colour out.dcm; }
right="YBR_FULL samples 60 94 228 colour 200 0 0"
converted="YBR_FULL samples 200 0 0 colour 21 255 0"
expect "as it was" "$(colour YBR_FULL.dcm)" "$right"
for syntax in 4.90 4.201 4.80; do
    expect "compressed to .1.2.$syntax" "$(compressed YBR_FULL $syntax)" "$converted"
done
dcmdjpls out.dcm dcmdjpls.dcm
gdcmconv --raw out.dcm gdcmconv.dcm
node compress.js out.dcm 1.2.840.10008.1.2.1 back.dcm
for tool in dcmdjpls gdcmconv back; do
    expect "JPEG-LS, decompressed: $tool" "$(colour $tool.dcm)" "$converted"
done
expect "compressed to .1.2.5" "$(compressed YBR_FULL 5)" "$right"
expect "compressed to .1.2.4.70" "$(compressed YBR_FULL 4.70 2>/dev/null)" "YBR_FULL samples 60 94 228 colour 60 94 228"
for syntax in 4.80 4.201 5; do
    expect "RGB, compressed to .1.2.$syntax" "$(compressed RGB $syntax)" "RGB samples 200 0 0 colour 200 0 0"
done
finish
