#!/usr/bin/env bash
# Guess: `gdcmconv --j2k` compresses an image of 32 bits allocated, as most RT Dose has, without loss, or refuses it, as
#   --jpeg and --jpegls do.
# Seen: it writes a file and ends with 0, without a word. OpenJPEG does not decode the JPEG 2000 stream in it ("only supports up
#   to 31" bits), and so none of these do: gdcmconv itself, SimpleITK, pydicom with pylibjpeg-openjpeg. --rle is right for
#   such an image, and --j2k for one of 16 bits.
# Matters: for converting an archive in place. The dose is gone in practice, by a tool that calls it lossless, and nobody
#   sees it before somebody opens the plan. Decode each converted object before the original goes, and take --rle for RT Dose.
# Versions: Debian libgdcm-tools 3.0.21-1; SimpleITK 2.5.7, pydicom 3.0.2 with pylibjpeg 2.1.0, pylibjpeg-openjpeg 2.6.0 and numpy
#   2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian libgdcm-tools 3.0.21
python_packages venv python3 simpleitk==2.5.7 pydicom==3.0.2 pylibjpeg==2.1.0 pylibjpeg-openjpeg==2.6.0 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >dose.py <<'END'
import numpy
import pydicom

FRAMES, SIZE = 6, 64
noise = numpy.random.default_rng(1)
for bits in 16, 32:
    d = pydicom.dcmread("CT1")
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.2"
    d.Modality, d.DoseUnits, d.DoseType, d.DoseSummationType = "RTDOSE", "GY", "PHYSICAL", "PLAN"
    d.Rows = d.Columns = SIZE
    d.NumberOfFrames, d.BitsStored, d.HighBit = FRAMES, bits, bits - 1
    d.BitsAllocated, kind = bits, f"<u{bits // 8}"
    d.ImagePositionPatient, d.ImageOrientationPatient, d.PixelSpacing = [0, 0, 0], [1, 0, 0, 0, 1, 0], [2, 2]
    d.GridFrameOffsetVector, d.FrameIncrementPointer = [3 * frame for frame in range(FRAMES)], 0x3004000C
    d.DoseGridScaling, d.FrameOfReferenceUID = "1e-8", d.StudyInstanceUID + ".9"
    d.PixelData = noise.integers(0, 2**bits, (FRAMES, SIZE, SIZE)).astype(kind).tobytes()
    d.save_as(f"dose{bits}.dcm")
END
venv/bin/python dose.py
cat >compare.py <<'END'
import sys

import numpy
import pydicom
import SimpleITK
from pydicom.pixels import pixel_array


def by_simpleitk(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))


expected = pixel_array(sys.argv[1])
for name, read in (("pydicom", pixel_array), ("SimpleITK", by_simpleitk)):
    try:
        print(name, "right" if numpy.array_equal(read("packed.dcm"), expected) else "wrong", end=", ")
    except RuntimeError:
        print(name, "cannot decode", end=", ")
END
# told FILE OPTION: gdcmconv's exit code, who decodes what it wrote, and whether gdcmconv does.
told() {
    local packed
    rm -f packed.dcm raw.dcm
    packed=$(status_of gdcmconv "$2" "$1" packed.dcm)
    if [[ $packed != 0 ]]; then
        echo "refused"
        return
    fi
    [[ ! -s output.txt ]] || cat output.txt
    echo "ends with 0, $(venv/bin/python compare.py "$1" 2>/dev/null)gdcmconv --raw $(status_of gdcmconv --raw packed.dcm raw.dcm)"
}
expect "32 bits, --j2k" "$(told dose32.dcm --j2k)" \
    "ends with 0, pydicom cannot decode, SimpleITK cannot decode, gdcmconv --raw 1"
expect "what gdcmconv --raw said" "$(grep -o -m 1 'only supports up to 31' output.txt)" "only supports up to 31"
fine="ends with 0, pydicom right, SimpleITK right, gdcmconv --raw 0"
expect "16 bits, --j2k" "$(told dose16.dcm --j2k)" "$fine"
expect "32 bits, --rle" "$(told dose32.dcm --rle)" "$fine"
expect "32 bits, --jpeg" "$(told dose32.dcm --jpeg)" "refused"
expect "32 bits, --jpegls" "$(told dose32.dcm --jpegls)" "refused"
finish
