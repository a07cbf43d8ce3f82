# What the scripts in this directory share. Each sources it, works in a temporary directory of its own, talks on loopback
# only, and ends with 0 when everything behaved as its header says, 1 when something did not, 2 when a tool is missing.
set -euo pipefail
work=$(mktemp -d)
servers=()
wrong=0
cd "$work"

clean_up() {
    local server
    for server in "${servers[@]}"; do
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    done
    cd /
    rm -rf "$work"
}
trap clean_up EXIT

missing() {
    echo "cannot run here: $*" >&2
    exit 2
}

# debian PACKAGE VERSION: prints the installed version, which must begin with VERSION.
debian() {
    local installed
    installed=$(dpkg-query -W -f '${Version}' "$1" 2>/dev/null) || missing "Debian package $1 is not installed"
    echo "$1 $installed"
    [[ $installed == "$2"* ]] || missing "$1 $2 is documented, $installed is installed"
}

# python_packages VENV PYTHON PIN...: a virtual environment with these pins, from PyPI.
python_packages() {
    local venv=$1 python=$2
    shift 2
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"
    "$venv/bin/python" --version
    printf '%s\n' "$@"
}

# newer_python: the first interpreter that is 3.12 or later.
newer_python() {
    local python
    for python in python3.13 python3.12 python3; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[23].*/bin/python; do
        if [[ -x $python ]]; then
            echo "$python"
            return
        fi
    done
    missing "Python 3.12 or later is not installed"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# serve PORT COMMAND...: starts a server in the background, and waits until it listens.
serve() {
    local port=$1 tries
    shift
    "$@" >"server-$port.log" 2>&1 &
    servers+=($!)
    for tries in {1..300}; do
        if python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1).close()" 2>/dev/null; then
            return
        fi
        sleep 0.1
    done
    echo "the server on port $port does not listen after $tries tries:" >&2
    cat "server-$port.log" >&2
    exit 1
}

# orthanc DIRECTORY [SETTING...]: starts an Orthanc that keeps what it gets in DIRECTORY; `port` (DICOM) and `http` are its ports.
orthanc() {
    local directory=$1
    shift
    port=$(free_port)
    http=$(free_port)
    mkdir -p "$directory"
    cat >"orthanc-$http.json" <<END
{"Name": "made up", "DicomPort": $port, "HttpPort": $http, "StorageDirectory": "$work/$directory",
 "IndexDirectory": "$work/$directory", "Plugins": [], ${*/%/,} "AuthenticationEnabled": false}
END
    serve "$http" Orthanc "orthanc-$http.json" # it serves HTTP last
}

# status_of COMMAND...: runs it, keeps what it prints in output.txt, prints its exit code.
status_of() {
    local status=0
    timeout 120 "$@" >output.txt 2>&1 || status=$?
    echo "$status"
}

# expect WHAT SEEN DOCUMENTED
expect() {
    if [[ $2 == "$3" ]]; then
        echo "as documented: $1: $2"
    else
        echo "OTHERWISE: $1: seen '$2', documented '$3'"
        wrong=1
    fi
}

finish() {
    [[ $wrong == 0 ]] && echo "all as documented"
    exit "$wrong"
}

# made_up.py KIND... writes one valid instance of each kind into the working directory: ct1 ct2 ct3, sr, pdf, rtstruct, stl.
# Needs pydicom. All instances are of one made-up study.
cat >made_up.py <<'END'
import sys

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.10.9999.1"
CLASSES = {
    "ct": ("1.2.840.10008.5.1.4.1.1.2", "CT"),
    "sr": ("1.2.840.10008.5.1.4.1.1.88.11", "SR"),
    "pdf": ("1.2.840.10008.5.1.4.1.1.104.1", "DOC"),
    "stl": ("1.2.840.10008.5.1.4.1.1.104.3", "M3D"),
    "rtstruct": ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
}


def common(kind, number):
    d = Dataset()
    d.SOPClassUID, d.Modality = CLASSES[kind]
    series = list(CLASSES).index(kind) + 1
    d.SOPInstanceUID = f"{ROOT}.{series}.{number}"
    d.StudyInstanceUID, d.SeriesInstanceUID = ROOT, f"{ROOT}.{series}"
    d.StudyDate = d.ContentDate = "20200101"
    d.StudyTime = d.ContentTime = "120000"
    d.AccessionNumber = d.ReferringPhysicianName = d.PatientBirthDate = d.PatientSex = ""
    d.PatientName, d.PatientID, d.StudyID = "Made^Up", "MADEUP", "1"
    d.SeriesNumber, d.InstanceNumber = series, number
    return d


def instance(kind, number):
    d = common(kind, number)
    if kind == "ct":
        d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.Rows = d.Columns = 16
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 8, 8, 7, 0
        d.add_new("PixelData", "OW", bytes(range(256)))
    elif kind == "sr":
        name = Dataset()
        name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "121070", "DCM", "Findings"
        d.CompletionFlag, d.VerificationFlag = "COMPLETE", "UNVERIFIED"
        d.ValueType, d.ContinuityOfContent = "CONTAINER", "SEPARATE"
        d.ConceptNameCodeSequence = [name]
    elif kind in ("pdf", "stl"):
        d.AcquisitionDateTime, d.BurnedInAnnotation, d.DocumentTitle = "20200101120000", "NO", "Made up"
        d.ConceptNameCodeSequence = []
        d.MIMETypeOfEncapsulatedDocument = "application/pdf" if kind == "pdf" else "model/stl"
        d.EncapsulatedDocument = b"%PDF-1.4 made up" if kind == "pdf" else bytes(84)
    else:
        d.StructureSetLabel, d.StructureSetDate, d.StructureSetTime = "Made up", "20200101", "120000"
    return d


for kind in sys.argv[1:]:
    d = instance(kind.rstrip("0123456789"), int(kind.lstrip("abcdefghijklmnopqrstuvwxyz") or 1))
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    d.save_as(kind.upper(), enforce_file_format=True)
END

# slide_maker: writes slide_maker.py, by which Python code makes whole slide images.
slide_maker() {
    cat >slide_maker.py <<'END'
from pydicom.dataset import Dataset, FileMetaDataset

ROOT = "1.2.826.0.1.3680043.10.9999.5"


def code(value, scheme, meaning):
    d = Dataset()
    d.CodeValue, d.CodingSchemeDesignator, d.CodeMeaning = value, scheme, meaning
    return d


def optical_path(identifier):
    d = Dataset()
    d.OpticalPathIdentifier = identifier
    d.IlluminationTypeCodeSequence = [code("111744", "DCM", "Brightfield illumination")]
    d.IlluminationColorCodeSequence = [code("371251000", "SCT", "White")]
    return d


def slide(organization, paths, syntax):
    """A slide of 2 x 2 tiles of 64 x 64 pixels without its frames, and the items that all frames share."""
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
    d.NumberOfOpticalPaths, d.OpticalPathSequence = len(paths), [optical_path(path) for path in paths]
    dimension.DimensionOrganizationUID = ROOT + ".6"
    d.DimensionOrganizationSequence, d.DimensionOrganizationType = [dimension], organization
    measures.PixelSpacing, measures.SliceThickness = [0.0005, 0.0005], 0.001
    frame_type.FrameType = d.ImageType
    shared.PixelMeasuresSequence, shared.WholeSlideMicroscopyImageFrameTypeSequence = [measures], [frame_type]
    d.SharedFunctionalGroupsSequence = [shared]
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = syntax
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    return d, shared
END
}

# dcmjs_codecs: installs dcmjs-codecs, and writes compress.js: `node compress.js INPUT SYNTAX OUTPUT`.
dcmjs_codecs() {
    command -v npm >/dev/null || missing "npm is not installed"
    npm install --silent --no-fund --no-audit --ignore-scripts --prefix node dcmjs-codecs@0.0.8 dcmjs@0.52.2 >npm.log 2>&1 ||
        { cat npm.log; exit 2; }
    echo "node $(node --version), dcmjs-codecs $(node -p "require('./node/node_modules/dcmjs-codecs/package.json').version")"
    cat >compress.js <<'END'
const fs = require("fs");
const { NativeCodecs, Transcoder } = require("./node/node_modules/dcmjs-codecs");
const [input, syntax, output] = process.argv.slice(2);
NativeCodecs.initializeAsync().then(() => {
  const file = fs.readFileSync(input);
  const transcoder = new Transcoder(file.buffer.slice(file.byteOffset, file.byteOffset + file.length));
  transcoder.transcode(syntax);
  fs.writeFileSync(output, Buffer.from(transcoder.getDicomPart10()));
});
END
}
