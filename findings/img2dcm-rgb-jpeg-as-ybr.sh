#!/usr/bin/env bash
# Guess: img2dcm, which wraps a JPEG file without touching its pixels, labels it as it is: a JPEG whose components are RGB
#   (Adobe marker with transform 0, component identifiers R, G, B) gets Photometric Interpretation RGB.
# Seen: it labels every JPEG of three components YBR_FULL_422. What decodes by the label converts colours that need no
#   conversion: DCMTK itself (dcmdjpeg, dcmj2pnm), and readers of what gdcmconv --raw writes, which keeps the label. dcmdjpeg
#   +cg, which looks into the stream, is right. gdcmimg labels the same file RGB.
# Matters: JPEG in RGB keeps colours sharp, and some microscope scanners and programs write it. The object is wrong in some
#   viewers and right in others. After img2dcm look for the Adobe marker's transform, or take gdcmimg.
# Versions: Debian dcmtk 3.6.7-9~deb12u4, libgdcm-tools 3.0.21-1; pillow 11.1.0 makes the JPEG files, pydicom 3.0.2 and numpy
#   2.2.6 read the results (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian libgdcm-tools 3.0.21
python_packages venv python3 pillow==11.1.0 pydicom==3.0.2 numpy==2.2.6
cat >jpeg.py <<'END'
import numpy
from PIL import Image

# Squares of eight colours, so that the compression changes little.
colours = numpy.array([[r, g, b] for r in (20, 230) for g in (20, 230) for b in (20, 230)], numpy.uint8)
pixels = colours.reshape(2, 4, 3).repeat(16, 0).repeat(16, 1)
for name, keeps_rgb in (("rgb", True), ("ycbcr", False)):
    Image.fromarray(pixels).save(f"{name}.jpg", quality=95, subsampling=0, keep_rgb=keeps_rgb)
END
venv/bin/python jpeg.py
cat >compare.py <<'END'
import sys

import numpy
import pydicom
from PIL import Image

path, original = sys.argv[1:]
if path.endswith(".ppm"):
    label, pixels = "image", numpy.array(Image.open(path))
else:
    d = pydicom.dcmread(path)
    # Decoded as its label says: YBR is converted to RGB.
    label, pixels = d.PhotometricInterpretation, d.pixel_array
expected = numpy.array(Image.open(original).convert("RGB"))
print(label, "right" if numpy.abs(pixels.astype(int) - expected).max() < 10 else "wrong colours")
END
told() {
    venv/bin/python compare.py "$1" "$2.jpg" 2>/dev/null
}
for kind in rgb ycbcr; do
    img2dcm -q $kind.jpg $kind.dcm
    dcmdjpeg $kind.dcm $kind-dcmdjpeg.dcm
    dcmdjpeg +cg $kind.dcm $kind-guessed.dcm
    dcmj2pnm --write-raw-pnm $kind.dcm $kind.ppm
    gdcmconv --raw $kind.dcm $kind-gdcmconv.dcm
    gdcmimg $kind.jpg $kind-gdcmimg.dcm
    dcmdjpeg $kind-gdcmimg.dcm $kind-gdcmimg-dcmdjpeg.dcm
done
expect "a JPEG of YCbCr, by pydicom" "$(told ycbcr.dcm ycbcr)" "YBR_FULL_422 right"
expect "by dcmdjpeg" "$(told ycbcr-dcmdjpeg.dcm ycbcr)" "RGB right"
expect "by dcmj2pnm" "$(told ycbcr.ppm ycbcr)" "image right"
expect "by gdcmconv" "$(told ycbcr-gdcmconv.dcm ycbcr)" "YBR_FULL right"
expect "a JPEG of RGB, by dcmdjpeg" "$(told rgb-dcmdjpeg.dcm rgb)" "RGB wrong colours"
expect "by dcmdjpeg +cg" "$(told rgb-guessed.dcm rgb)" "RGB right"
expect "by dcmj2pnm" "$(told rgb.ppm rgb)" "image wrong colours"
expect "by gdcmconv" "$(told rgb-gdcmconv.dcm rgb)" "YBR_FULL wrong colours"
expect "the same from gdcmimg, by pydicom" "$(told rgb-gdcmimg.dcm rgb)" "RGB right"
expect "by dcmdjpeg" "$(told rgb-gdcmimg-dcmdjpeg.dcm rgb)" "RGB right"
finish
