#!/usr/bin/env bash
# Guess: OpenSlide shows one optical path of a DICOM slide that has several, the first, wherever its tiles stand in the file.
#   (Of several focal planes it says that it cannot.)
# Seen: so it does with DICOM's TILED_FULL. With TILED_SPARSE, where each frame says its path and its place, it takes of the
#   frames of a place the last, whatever path that is: the second path where its frames come later, and a mixture where the
#   second path covers only a part of the slide. There is no word of it, no property, no error. wsidicom shows the first path in
#   each case.
# Matters: TILED_SPARSE is what scanners write that leave out empty glass, and a second path (another illumination, another
#   stain, another exposure) is often for a region of interest alone. The picture is then of two kinds, with a seam, and what is
#   converted or analysed from it as well. Look at Number of Optical Paths first, or read with wsidicom.
# Versions: openslide-bin 4.0.1.2 with openslide-python 1.4.7, wsidicom 0.36.1, pydicom 3.0.2, pillow 11.1.0, numpy 2.2.6
#   (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 openslide-python==1.4.7 openslide-bin==4.0.1.2 wsidicom==0.36.1 pydicom==3.0.2 pillow==11.1.0 \
    numpy==2.2.6
slide_maker
cat >slides.py <<'END'
import io
import os

import slide_maker
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

COLOURS = {"1": (200, 0, 0), "2": (0, 0, 200)}
PLACES = [(0, 0), (1, 0), (0, 1), (1, 1)]


def tile(path):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), COLOURS[path]).save(file, "JPEG", quality=95)
    return file.getvalue()


def frame(column, row, path):
    groups, place, identification = Dataset(), Dataset(), Dataset()
    place.ColumnPositionInTotalImagePixelMatrix, place.RowPositionInTotalImagePixelMatrix = column * 64 + 1, row * 64 + 1
    place.XOffsetInSlideCoordinateSystem = 20 - row * 64 * 0.0005
    place.YOffsetInSlideCoordinateSystem = 40 - column * 64 * 0.0005
    place.ZOffsetInSlideCoordinateSystem = 0
    identification.OpticalPathIdentifier = path
    groups.PlanePositionSlideSequence, groups.OpticalPathIdentificationSequence = [place], [identification]
    return groups


def slide(name, tiles, organization):
    d, _ = slide_maker.slide(organization, ["1", "2"], JPEGBaseline8Bit)
    if organization == "TILED_SPARSE":
        d.PerFrameFunctionalGroupsSequence = [frame(*place, path) for place, path in tiles]
    d.NumberOfFrames = len(tiles)
    d.add_new("PixelData", "OB", encapsulate([tile(path) for _, path in tiles]))
    d["PixelData"].is_undefined_length = True
    os.mkdir(name)
    d.save_as(f"{name}/slide.dcm", enforce_file_format=True)


first, second = [(place, "1") for place in PLACES], [(place, "2") for place in PLACES]
slide("full", first + second, "TILED_FULL")
slide("first_first", first + second, "TILED_SPARSE")
slide("second_first", second + first, "TILED_SPARSE")
slide("second_of_a_region", first + second[3:], "TILED_SPARSE")
END
venv/bin/python slides.py
# paths FOLDER: which path each of the four tiles is of, by OpenSlide and by wsidicom.
cat >paths.py <<'END'
import sys

import openslide
from wsidicom import WsiDicom

for read in openslide.OpenSlide(sys.argv[1] + "/slide.dcm"), WsiDicom.open(sys.argv[1]):
    for place in (32, 32), (96, 32), (32, 96), (96, 96):
        red, _, blue = read.read_region(place, 0, (1, 1)).convert("RGB").getpixel((0, 0))
        print(1 if red > blue else 2, end=" ")
END
paths() { venv/bin/python paths.py "$1"; }
expect "TILED_FULL" "$(paths full)" "1 1 1 1 1 1 1 1 "
expect "TILED_SPARSE, second path's frames first" "$(paths second_first)" "1 1 1 1 1 1 1 1 "
expect "TILED_SPARSE, first path's frames first" "$(paths first_first)" "2 2 2 2 1 1 1 1 "
expect "TILED_SPARSE, second path in one place" "$(paths second_of_a_region)" "1 1 1 2 1 1 1 1 "
finish
