#!/usr/bin/env bash
# Guess: dicomweb-client's DICOMfileClient returns a frame of a binary segmentation (one bit for a pixel, PS3.5 8.2: the frames
#   follow each other without padding) so that the frame can be read: shifted to begin with the first bit, or with all bytes
#   that have a part of it.
# Seen: where a frame's bits are not a multiple of 8, it cuts the pixel data at the byte below. A frame of 11 x 9 pixels comes
#   in 12 bytes, which is 96 of its 99 bits; the second begins in the middle of the first's last bits. Read as bits, the first
#   frame is three pixels short, and the others are shifted, each by another number. No exception, no warning. Frames of 16 x 16
#   are right, and so is pydicom with both.
# Matters: for masks of images that were cropped or resampled to odd sizes. The mask is in the wrong place by a few pixels in
#   its rows, and wraps at the edge; with a tool that is tried on 512 x 512 it never shows. Retrieve the instance whole
#   (retrieve_instance) and take pixel_array.
# Versions: dicomweb-client 0.61.2, highdicom 0.28.2, pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 dicomweb-client==0.61.2 highdicom==0.28.2 pydicom==3.0.2 numpy==2.2.6
venv/bin/python made_up.py ct1 ct2 ct3
# masks ROWS COLUMNS: makes a binary segmentation of three frames, and compares what both give for them.
cat >masks.py <<'END'
import logging
import os
import sys
import warnings

import highdicom
import numpy
import pydicom
from dicomweb_client import DICOMfileClient

warnings.simplefilter("ignore")
logging.disable()
rows, columns = map(int, sys.argv[1:])
images = []
for number in 1, 2, 3:
    d = pydicom.dcmread(f"CT{number}")
    d.Rows, d.Columns, d.PixelData = rows, columns, bytes(rows * columns + rows * columns % 2)
    d.FrameOfReferenceUID, d.PositionReferenceIndicator = d.StudyInstanceUID + ".9", ""
    d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, 3 * number], [1, 0, 0, 0, 1, 0]
    d.PixelSpacing, d.SliceThickness = [2, 2], 3
    images.append(d)
liver = highdicom.sr.CodedConcept("10200004", "SCT", "Liver")
organ = highdicom.sr.CodedConcept("123037004", "SCT", "Anatomical structure")
mask = numpy.random.default_rng(1).integers(0, 2, (3, rows, columns), "u1")
segmentation = highdicom.seg.Segmentation(
    images,
    mask,
    "BINARY",
    [highdicom.seg.SegmentDescription(1, "Liver", organ, liver, "MANUAL")],
    series_instance_uid=images[0].StudyInstanceUID + ".20",
    series_number=20,
    sop_instance_uid=images[0].StudyInstanceUID + ".20.1",
    instance_number=1,
    manufacturer="made up",
    manufacturer_model_name="made up",
    software_versions="1",
    device_serial_number="1",
)
folder = f"masks-{rows}"
os.mkdir(folder)
segmentation.save_as(f"{folder}/mask.dcm")
d = pydicom.dcmread(f"{folder}/mask.dcm")
client = DICOMfileClient(f"file://{os.path.abspath(folder)}", update_db=True, in_memory=True)
frames = client.retrieve_instance_frames(d.StudyInstanceUID, d.SeriesInstanceUID, d.SOPInstanceUID, [1, 2, 3])
print("pydicom", numpy.array_equal(numpy.sort(d.pixel_array.sum((1, 2))), numpy.sort(mask.sum((1, 2)))), end=", frames")
for frame, right in zip(frames, d.pixel_array):
    bits = numpy.unpackbits(numpy.frombuffer(frame, "u1"), bitorder="little")[: rows * columns]
    print("", len(frame), "bytes", "right" if numpy.array_equal(bits, right.ravel()) else f"{len(bits)} pixels", end="")
print()
END
masks() { venv/bin/python masks.py "$@" 2>&1 | tail -1; }
expect "16 x 16 pixels" "$(masks 16 16)" "pydicom True, frames 32 bytes right 32 bytes right 32 bytes right"
expect "11 x 9 pixels" "$(masks 11 9)" \
    "pydicom True, frames 12 bytes 96 pixels 12 bytes 96 pixels 14 bytes 99 pixels"
expect "10 x 10 pixels" "$(masks 10 10)" \
    "pydicom True, frames 12 bytes 96 pixels 13 bytes 100 pixels 13 bytes right"
finish
