#!/usr/bin/env bash
# Guess: a tool that decompresses a multi-frame image, or compresses it again, removes the Extended Offset Table, which says
#   where each frame of the old stream began and how long it was, or writes a new one. It may be there only with encapsulated
#   pixel data (PS3.3 C.7.6.3.1.8).
# Seen: DCMTK (dcmdjpeg), GDCM (gdcmconv --raw, and --jpegls at once), pydicom's decompress() and compress(), and Orthanc's
#   transcoding leave the old table in. None says a word. What goes by the table then reads at the wrong places: pydicom cannot
#   decode what was compressed again, whoever has compressed it, and OpenSlide shows each tile of a decompressed slide with
#   other pixels in swapped colours, without a word. DCMTK and GDCM do not look at the table and read all of them.
# Matters: the table is for what is larger than 4 GB, and slide scanners write it for any size. The archive that transcodes sees
#   nothing, the viewer fails or, worse, shows something else. Delete (7FE0,0001) and (7FE0,0002) after each change of transfer
#   syntax; then all is right.
# Versions: Debian dcmtk 3.6.7-9~deb12u4, libgdcm-tools 3.0.21-1, orthanc 1.10.1+dfsg-2+deb12u1, pydicom 3.0.2 with pyjpegls
#   1.5.1, pillow 11.1.0 and numpy 2.2.6 (Python 3.10 or later), openslide-bin 4.0.1.2 with openslide-python 1.4.7.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian libgdcm-tools 3.0.21
debian orthanc 1.10.1
python_packages venv python3 openslide-python==1.4.7 openslide-bin==4.0.1.2 pydicom==3.0.2 pyjpegls==1.5.1 pillow==11.1.0 \
    numpy==2.2.6
slide_maker
cat >slide.py <<'END'
import io

import slide_maker
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate_extended
from pydicom.uid import JPEGBaseline8Bit

COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]


# The tiles of a slide differ in length; these do by a comment in each.
def tile(number):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), COLOURS[number]).save(file, "JPEG", quality=95, comment=b"x" * 40 * number)
    return file.getvalue() + b"\0" * (len(file.getvalue()) % 2)


d, shared = slide_maker.slide("TILED_FULL", ["1"], JPEGBaseline8Bit)
identification = Dataset()
identification.OpticalPathIdentifier = "1"
shared.OpticalPathIdentificationSequence = [identification]
d.NumberOfFrames = len(COLOURS)
pixels, d.ExtendedOffsetTable, d.ExtendedOffsetTableLengths = encapsulate_extended([tile(n) for n in range(len(COLOURS))])
d.add_new("PixelData", "OB", pixels)
d["PixelData"].is_undefined_length = True
d.save_as("slide.dcm", enforce_file_format=True)
END
venv/bin/python slide.py
cat >by_pydicom.py <<'END'
import sys

import pydicom

d = pydicom.dcmread(sys.argv[1])
if sys.argv[3] == "decompress":
    d.decompress(generate_instance_uid=False)
else:
    d.compress("1.2.840.10008.1.2.4.80", generate_instance_uid=False)
d.save_as(sys.argv[2])
END
dcmdjpeg slide.dcm native-dcmtk.dcm
dcmcjpls native-dcmtk.dcm jpegls-dcmtk.dcm
gdcmconv --raw slide.dcm native-gdcm.dcm
gdcmconv --jpegls slide.dcm jpegls-gdcm.dcm
venv/bin/python by_pydicom.py slide.dcm native-pydicom.dcm decompress
venv/bin/python by_pydicom.py native-pydicom.dcm jpegls-pydicom.dcm compress
orthanc store
cat >by_orthanc.py <<'END'
import json
import sys
import urllib.request

address = f"http://127.0.0.1:{sys.argv[1]}/instances"
with urllib.request.urlopen(address, open("slide.dcm", "rb").read()) as answer:
    instance = json.load(answer)["ID"]
for name, syntax in ("native", "1.2.840.10008.1.2.1"), ("jpegls", "1.2.840.10008.1.2.4.80"):
    asked = json.dumps({"Transcode": syntax, "Keep": ["SOPInstanceUID"], "Force": True}).encode()
    with urllib.request.urlopen(f"{address}/{instance}/modify", asked) as answer, open(f"{name}-orthanc.dcm", "wb") as file:
        file.write(answer.read())
END
venv/bin/python by_orthanc.py "$http"
cat >colours.py <<'END'
NAMES = {(2, 0, 0): "R", (0, 2, 0): "G", (0, 0, 2): "B", (2, 2, 0): "Y"}


def name(pixel):
    return NAMES.get(tuple(int(value) // 99 for value in pixel), "?")
END
# read_of FILE: whether the old table is in it, and the colour of each frame by pydicom.
cat >read.py <<'END'
import sys

import pydicom
from colours import name
from pydicom.pixels import pixel_array

old, d = pydicom.dcmread("slide.dcm"), pydicom.dcmread(sys.argv[1])
print("the old table" if d.get("ExtendedOffsetTable") == old.ExtendedOffsetTable else "another or none", end=", ")
try:
    print(*(name(frame[0, 0]) for frame in pixel_array(d)))
except RuntimeError as error:
    print(str(error).split(" as ")[0])
END
read_of() { venv/bin/python -W ignore read.py "$1.dcm" 2>&1 | tail -1; }
cat >tiles.py <<'END'
import os
import sys

import openslide
from colours import name

os.mkdir(sys.argv[1])
os.rename(sys.argv[1] + ".dcm", sys.argv[1] + "/slide.dcm")
slide = openslide.OpenSlide(sys.argv[1] + "/slide.dcm")
places = (32, 32), (96, 32), (32, 96), (96, 96)
print(*(name(slide.read_region(place, 0, (1, 1)).getpixel((0, 0))[:3]) for place in places))
END
expect "the slide as it was" "$(read_of slide)" "the old table, R G B Y"
for tool in dcmtk gdcm pydicom orthanc; do
    expect "decompressed by $tool, read by pydicom" "$(read_of native-$tool)" "the old table, R G B Y"
    expect "JPEG-LS by $tool, read by pydicom" "$(read_of jpegls-$tool)" "the old table, Unable to decode"
done
gdcmconv --raw jpegls-dcmtk.dcm by_gdcm.dcm
expect "JPEG-LS by dcmtk, decompressed by GDCM" "$(read_of by_gdcm)" "the old table, R G B Y"
for name in native jpegls; do
    dcmodify -nb -ea "(7fe0,0001)" -ea "(7fe0,0002)" $name-dcmtk.dcm
done
expect "JPEG-LS by dcmtk without the table" "$(read_of jpegls-dcmtk)" "another or none, R G B Y"
tiles() { venv/bin/python tiles.py "$1" 2>&1 | tail -1; }
expect "the slide as it was, by OpenSlide" "$(tiles slide)" "R G B Y"
expect "decompressed by orthanc, by OpenSlide" "$(tiles native-orthanc)" "G B G B"
expect "decompressed by pydicom, by OpenSlide" "$(tiles native-pydicom)" "G B G B"
expect "decompressed by dcmtk, without the table, by OpenSlide" "$(tiles native-dcmtk)" "R G B Y"
finish
