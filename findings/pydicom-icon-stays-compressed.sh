#!/usr/bin/env bash
# Guess: pydicom's decompress() makes of a compressed file a native one that any program takes. An Icon Image, whose pixels may
#   be compressed just like those of the image (PS3.5 A.4), is decompressed with it, or decompress() says that it cannot.
# Seen: the icon stays as it is: an encapsulated JPEG in an item of a file in Explicit VR Little Endian. Neither decompress()
#   nor save_as says a word. pydicom, dcmdump and gdcmdump read the file. DCMTK's storescu and dcmsend cannot send it, not even
#   to an SCP that takes just this transfer syntax (exit codes 1 and 62), dcmconv converts it to nothing, and Orthanc takes it,
#   and can never send it on. dcmdjpeg and gdcmconv --raw decompress the icon as well.
# Matters: icons are in many ultrasound, angiography and secondary capture images. An archive decompressed by pydicom looks
#   sound, and some of its images stay behind when it is moved, with a message that blames the conversion of "Little Endian
#   Explicit" to "Little Endian Explicit". Delete Icon Image Sequence, which is optional, or take another tool.
# Versions: pydicom 3.0.2, pillow 11.1.0, numpy 2.2.6 (Python 3.10 or later), Debian dcmtk 3.6.7-9~deb12u4, libgdcm-tools
#   3.0.21-1, orthanc 1.10.1+dfsg-2+deb12u1.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian libgdcm-tools 3.0.21
debian orthanc 1.10.1
python_packages venv python3 pydicom==3.0.2 pillow==11.1.0 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >with_icon.py <<'END'
import io

import numpy
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

SHADES = numpy.add.outer(numpy.arange(64), numpy.arange(64)).astype("u1")


def put(d, pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = pixels.shape
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 8, 8, 7, 0
    d.add_new("PixelData", "OB", encapsulate([file.getvalue()]))
    d["PixelData"].is_undefined_length = True


d, icon = pydicom.dcmread("CT1"), Dataset()
put(d, SHADES)
put(icon, numpy.ascontiguousarray(SHADES[::2, ::2]))
d.IconImageSequence = [icon]
d.LossyImageCompression, d.LossyImageCompressionMethod = "01", "ISO_10918_1"
d.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
d.save_as("jpeg.dcm")
d = pydicom.dcmread("jpeg.dcm")
d.decompress()
d.save_as("pydicom.dcm")
END
expect "what decompress() prints" "$(venv/bin/python with_icon.py 2>&1)" ""
dcmdjpeg jpeg.dcm dcmdjpeg.dcm
gdcmconv --raw jpeg.dcm gdcmconv.dcm
# holds FILE: its transfer syntax, and the lengths of the icon's and the image's pixel data.
cat >holds.py <<'END'
import sys

import pydicom

d = pydicom.dcmread(sys.argv[1])
elements = d.IconImageSequence[0]["PixelData"], d["PixelData"]
print(d.file_meta.TransferSyntaxUID.name, *("undefined" if e.is_undefined_length else len(e.value) for e in elements))
END
holds() { venv/bin/python holds.py "$1.dcm"; }
expect "pydicom" "$(holds pydicom)" "Explicit VR Little Endian undefined 4096"
expect "dcmdjpeg" "$(holds dcmdjpeg)" "Explicit VR Little Endian 1024 4096"
expect "gdcmconv" "$(holds gdcmconv)" "Explicit VR Little Endian 1024 4096"
expect "dcmdump's exit code" "$(status_of dcmdump pydicom.dcm)" 0
expect "dcmconv's exit code" "$(status_of dcmconv +ti pydicom.dcm implicit.dcm)" 1
mkdir received store
port=$(free_port)
serve "$port" storescp +xe -od received "$port"
expect "storescu's exit code" "$(status_of storescu 127.0.0.1 "$port" pydicom.dcm)" 1
expect "its words" "$(grep -o 'unable to convert.*' output.txt)" \
    "unable to convert dataset from 'Little Endian Explicit' transfer syntax to 'Little Endian Explicit'"
expect "dcmsend's exit code" "$(status_of dcmsend 127.0.0.1 "$port" pydicom.dcm)" 62
orthanc store '"DicomModalities": {"storescp": ["ANY", "127.0.0.1", '"$port"']}'
# by_orthanc FILE: the HTTP status of storing it in Orthanc, and that of sending it from there to storescp.
cat >by_orthanc.py <<'END'
import json
import sys
import urllib.error
import urllib.request

address, file = f"http://127.0.0.1:{sys.argv[1]}", open(sys.argv[2], "rb").read()
with urllib.request.urlopen(f"{address}/instances", file) as answer:
    print(answer.status, end=" ")
    instance = json.load(answer)["ID"]
try:
    with urllib.request.urlopen(f"{address}/modalities/storescp/store", json.dumps(instance).encode()) as answer:
        print(answer.status)
except urllib.error.HTTPError as error:
    print(error.code)
urllib.request.urlopen(urllib.request.Request(f"{address}/instances/{instance}", method="DELETE")).close()
END
expect "Orthanc, pydicom's file" "$(venv/bin/python by_orthanc.py "$http" pydicom.dcm)" "200 500"
expect "Orthanc, dcmdjpeg's file" "$(venv/bin/python by_orthanc.py "$http" dcmdjpeg.dcm)" "200 200"
finish
