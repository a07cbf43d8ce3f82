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
cat >slides.py <<'END'
import io
import os

from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

ROOT = "1.2.826.0.1.3680043.10.9999.5"
COLOURS = {"1": (200, 0, 0), "2": (0, 0, 200)}
PLACES = [(0, 0), (1, 0), (0, 1), (1, 1)]


def code(value, scheme, meaning):
    d = Dataset()
    d.CodeValue, d.CodingSchemeDesignator, d.CodeMeaning = value, scheme, meaning
    return d


def tile(path):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), COLOURS[path]).save(file, "JPEG", quality=95)
    return file.getvalue()


def optical_path(identifier):
    d = Dataset()
    d.OpticalPathIdentifier = identifier
    d.IlluminationTypeCodeSequence = [code("111744", "DCM", "Brightfield illumination")]
    d.IlluminationColorCodeSequence = [code("371251000", "SCT", "White")]
    return d


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
    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.6", ROOT + ".3"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = ROOT + ".1", ROOT + ".2", ROOT + ".4"
    d.StudyDate = d.ContentDate = "20200101"
    d.StudyTime = d.ContentTime = "120000"
    d.AcquisitionDateTime = "20200101120000"
    d.AccessionNumber = d.ReferringPhysicianName = d.PatientBirthDate = d.PatientSex = ""
    d.PatientName, d.PatientID, d.StudyID, d.Modality, d.SeriesNumber, d.InstanceNumber = "Made^Up", "MADEUP", "1", "SM", 1, 1
    d.Manufacturer = d.ManufacturerModelName = d.DeviceSerialNumber = d.SoftwareVersions = "made up"
    d.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "1", ROOT + ".5"
    specimen.IssuerOfTheSpecimenIdentifierSequence = specimen.SpecimenPreparationSequence = []
    d.ContainerIdentifier, d.IssuerOfTheContainerIdentifierSequence = "1", []
    d.ContainerTypeCodeSequence = [code("433466003", "SCT", "Microscope slide")]
    d.SpecimenDescriptionSequence, d.AcquisitionContextSequence = [specimen], []
    d.SamplesPerPixel, d.PhotometricInterpretation, d.PlanarConfiguration = 3, "YBR_FULL_422", 0
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 8, 8, 7, 0
    d.LossyImageCompression, d.LossyImageCompressionRatio, d.LossyImageCompressionMethod = "01", 10, "ISO_10918_1"
    d.Rows = d.Columns = 64
    d.TotalPixelMatrixRows = d.TotalPixelMatrixColumns = 128
    d.ImagedVolumeWidth = d.ImagedVolumeHeight = 128 * 0.0005
    d.ImagedVolumeDepth, d.TotalPixelMatrixFocalPlanes = 0.001, 1
    d.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    origin, measures, frame_type, shared, dimension = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 20, 40
    d.TotalPixelMatrixOriginSequence = [origin]
    d.SpecimenLabelInImage = d.ExtendedDepthOfField = d.BurnedInAnnotation = "NO"
    d.FocusMethod, d.VolumetricProperties = "AUTO", "VOLUME"
    d.NumberOfOpticalPaths, d.OpticalPathSequence = 2, [optical_path("1"), optical_path("2")]
    dimension.DimensionOrganizationUID = ROOT + ".6"
    d.DimensionOrganizationSequence, d.DimensionOrganizationType = [dimension], organization
    measures.PixelSpacing, measures.SliceThickness = [0.0005, 0.0005], 0.001
    frame_type.FrameType = d.ImageType
    shared.PixelMeasuresSequence, shared.WholeSlideMicroscopyImageFrameTypeSequence = [measures], [frame_type]
    d.SharedFunctionalGroupsSequence = [shared]
    if organization == "TILED_SPARSE":
        d.PerFrameFunctionalGroupsSequence = [frame(*place, path) for place, path in tiles]
    d.NumberOfFrames = len(tiles)
    d.add_new("PixelData", "OB", encapsulate([tile(path) for _, path in tiles]))
    d["PixelData"].is_undefined_length = True
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
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
