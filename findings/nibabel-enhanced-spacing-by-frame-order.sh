#!/usr/bin/env bash
# Guess: nibabel.nicom gives an enhanced multi-frame image the same affine and values in whatever order its frames are, as PS3.3
#   C.7.6.16 leaves the order to the writer; it sorts slices by position, and applies each frame's own Rescale Slope.
# Seen: it takes for the distance of slices that of two frames which it looks up by rank instead of by place. Slices up or down
#   are right. Slices 3 mm apart in interleaved order get 12 mm (1, 3, 5, 2, 4, 6) or -9 mm (2, 4, 6, 1, 3, 5: the volume is
#   mirrored), and two time points of each slice after another get 0. With two time points in either order the slopes go to other
#   frames: those of slices 1 to 6 go 2, 4, 6, 2, 4, 6. Frames themselves and the first position are right in each. highdicom has
#   3 mm. What nibabel says is the line about experimental readers that importing the module prints.
# Matters: frames in order of acquisition are interleaved in most MR, and diffusion and dynamic series may have all volumes of a
#   slice together. Volumes are four times too large, or mirrored along the slices, and a curve over time is of no one slice's
#   values. Compare the affine's third column with two Image Positions, and take get_unscaled_data().
# Versions: nibabel 5.4.2, highdicom 0.28.2, pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 nibabel==5.4.2 highdicom==0.28.2 pydicom==3.0.2 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >orders.py <<'END'
import warnings

import highdicom
import numpy
import pydicom
from pydicom.dataset import Dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nibabel.nicom import dicomwrappers

warnings.simplefilter("error")
ROOT = "1.2.826.0.1.3680043.10.9999.2"
APART_MM = 3


def item(**values):
    d = Dataset()
    for keyword, value in values.items():
        setattr(d, keyword, value)
    return d


def dimension(keyword):
    pointer = pydicom.datadict.tag_for_keyword(keyword)
    return item(DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111, DimensionOrganizationUID=ROOT)


def enhanced(frames):
    """An enhanced MR image of these (slice, time point), whose values are slice plus 10 for a later time point."""
    d = pydicom.dcmread("CT1")
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    d.Modality, d.FrameOfReferenceUID = "MR", ROOT + ".1"
    d.Rows = d.Columns = 4
    d.NumberOfFrames = len(frames)
    measures = item(PixelSpacing=[2, 2], SliceThickness=APART_MM)
    orientation = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    d.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[orientation])]
    d.DimensionOrganizationSequence = [item(DimensionOrganizationUID=ROOT)]
    keywords = ("StackID", "InStackPositionNumber", "TemporalPositionIndex")
    d.DimensionIndexSequence = [dimension(keyword) for keyword in keywords]
    d.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[
                item(
                    StackID="1",
                    InStackPositionNumber=place,
                    TemporalPositionIndex=time,
                    DimensionIndexValues=[1, place, time],
                )
            ],
            PlanePositionSequence=[item(ImagePositionPatient=[10, 20, 30 + APART_MM * place])],
            PixelValueTransformationSequence=[item(RescaleSlope=place, RescaleIntercept=0, RescaleType="US")],
        )
        for place, time in frames
    ]
    d.PixelData = b"".join(numpy.full(16, place + 10 * (time - 1), "u1").tobytes() for place, time in frames)
    return d


def of_each_slice(array):
    """The values at one place of each slice, at the first time point."""
    return " ".join(f"{value:g}" for value in array[0, 0].reshape(6, -1)[:, 0])


for name, frames in {
    "upwards": [(place, 1) for place in range(1, 7)],
    "downwards": [(place, 1) for place in range(6, 0, -1)],
    "1 3 5 2 4 6": [(place, 1) for place in (1, 3, 5, 2, 4, 6)],
    "2 4 6 1 3 5": [(place, 1) for place in (2, 4, 6, 1, 3, 5)],
    "slices of each time": [(place, time) for time in (1, 2) for place in range(1, 7)],
    "times of each slice": [(place, time) for place in range(1, 7) for time in (1, 2)],
}.items():
    d = enhanced(frames)
    image = dicomwrappers.wrapper_from_data(d)
    stored, values = map(of_each_slice, (image.get_unscaled_data(), image.get_data()))
    if max(time for _, time in frames) == 1:
        apart = highdicom.Image.from_dataset(d).get_volume().spacing_between_slices
        print(f"{name}, highdicom: {apart:g} mm")
    print(f"{name}, nibabel: {-image.affine[2, 2]:g} mm, stored {stored}, values {values}, from z {image.affine[2, 3]:g}")
END
venv/bin/python orders.py >seen.txt
# nibabel lays the slices from the top, so that the third column of its affine points down. Slice n has n stored, and slope n.
for name in "upwards" "downwards" "1 3 5 2 4 6" "2 4 6 1 3 5" "slices of each time" "times of each slice"; do
    case $name in
    1*) seen=12 ;;
    2*) seen=-9 ;;
    times*) seen=0 ;;
    *) seen=3 ;;
    esac
    values="36 25 16 9 4 1"
    case $name in
    *time*) values="36 20 8 18 8 2" ;;
    *) expect "$name, highdicom" "$(sed -n "s/^$name, highdicom: //p" seen.txt)" "3 mm" ;;
    esac
    expect "$name, nibabel" "$(sed -n "s/^$name, nibabel: //p" seen.txt)" "$seen mm, stored 6 5 4 3 2 1, values $values, from z 48"
done
finish
