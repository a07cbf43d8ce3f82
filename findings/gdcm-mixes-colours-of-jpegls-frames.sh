#!/usr/bin/env bash
# Guess: GDCM, which reads a colour JPEG-LS image in each of the three interleave modes (by sample, by line, none), reads
#   one of several frames as well.
# Seen: with interleave mode "none" (a scan for each component) a single frame is right, and of two or more every frame has its
#   colours mixed: the planes are put one after the other, and labelled as interleaved (Planar Configuration 0). gdcmconv to
#   native, RLE and JPEG and SimpleITK do so, without a word. gdcmconv --jpegls itself writes such a file when the
#   input has Planar Configuration 1, and cannot read back what it wrote. dcmdjpls and pydicom with pyjpegls read all of them
#   right.
# Matters: ultrasound in colour has many frames, and often Planar Configuration 1. Converted to JPEG-LS it is still right, and
#   the next lossless conversion by GDCM destroys it. A test with one frame passes. Compare decoded pixels before the
#   original goes, by another decoder.
# Versions: Debian libgdcm-tools 3.0.21-1, dcmtk 3.6.7-9~deb12u4; SimpleITK 2.5.7, pydicom 3.0.2 with pyjpegls 1.5.1, pylibjpeg
#   2.1.0, pylibjpeg-libjpeg 2.5.0 and numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian libgdcm-tools 3.0.21
python_packages venv python3 simpleitk==2.5.7 pydicom==3.0.2 pyjpegls==1.5.1 pylibjpeg==2.1.0 pylibjpeg-libjpeg==2.5.0 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >frames.py <<'END'
import numpy
import pydicom

noise = numpy.random.default_rng(1)
for frames in 1, 2:
    for planar in 0, 1:
        d = pydicom.dcmread("CT1")
        d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7.4"
        d.Modality, d.NumberOfFrames, d.SamplesPerPixel, d.PlanarConfiguration = "OT", frames, 3, planar
        d.PhotometricInterpretation = "RGB"
        d.PixelData = noise.integers(0, 256, (frames, 16, 16, 3), dtype=numpy.uint8).tobytes()
        d.save_as(f"frames{frames}-planar{planar}.dcm")
END
venv/bin/python frames.py
cat >compare.py <<'END'
import sys

import numpy
import pydicom
import SimpleITK


def pixels(path):
    return pydicom.dcmread(path).pixel_array


original = pixels(sys.argv[1])
for name, values in (
    ("gdcmconv", pixels("by-gdcm.dcm")),
    ("SimpleITK", SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("jpegls.dcm")).reshape(original.shape)),
    ("dcmdjpls", pixels("by-dcmtk.dcm")),
    ("pydicom", pixels("jpegls.dcm")),
):
    # Frame by frame; a single frame's array has no axis of frames.
    frames = zip(original.reshape(-1, 16, 16, 3), values.reshape(-1, 16, 16, 3), strict=True)
    print(name, *("right" if numpy.array_equal(*pair) else "mixed" for pair in frames), end=", ")
END
# told FILE ENCODER OPTION...: what each decoder makes of the file, encoded so.
told() {
    local file=$1
    shift
    rm -f jpegls.dcm by-gdcm.dcm by-dcmtk.dcm
    "$@" "$file" jpegls.dcm
    gdcmconv --raw jpegls.dcm by-gdcm.dcm
    dcmdjpls jpegls.dcm by-dcmtk.dcm
    venv/bin/python compare.py "$file" 2>/dev/null
}
one="gdcmconv right, SimpleITK right, dcmdjpls right, pydicom right, "
two="gdcmconv right right, SimpleITK right right, dcmdjpls right right, pydicom right right, "
mixed="gdcmconv mixed mixed, SimpleITK mixed mixed, dcmdjpls right right, pydicom right right, "
expect "one frame, not interleaved" "$(told frames1-planar0.dcm dcmcjpls +in)" "$one"
expect "two frames, by sample" "$(told frames2-planar0.dcm dcmcjpls +is)" "$two"
expect "two frames, by line" "$(told frames2-planar0.dcm dcmcjpls +il)" "$two"
expect "two frames, not interleaved" "$(told frames2-planar0.dcm dcmcjpls +in)" "$mixed"
expect "one frame, planar 1, by gdcmconv" "$(told frames1-planar1.dcm gdcmconv --jpegls)" "$one"
expect "two frames, planar 0, by gdcmconv" "$(told frames2-planar0.dcm gdcmconv --jpegls)" "$two"
expect "two frames, planar 1, by gdcmconv" "$(told frames2-planar1.dcm gdcmconv --jpegls)" "$mixed"
for way in jpeg rle; do
    gdcmconv --$way jpegls.dcm by-gdcm.dcm
    expect "these made --$way by gdcmconv" "$(venv/bin/python compare.py frames2-planar1.dcm 2>&1 | cut -d , -f 1)" \
        "gdcmconv mixed mixed"
done
finish
