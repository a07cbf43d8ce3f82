#!/usr/bin/env bash
# Guess: DCMTK, making explicit VR of implicit VR (dcmconv +te; storescu, where the SCP takes explicit), writes what is "US or
#   SS" in the dictionary as SS when Pixel Representation is 1, everywhere: PS3.3 ties the VR of such an attribute to the
#   pixels, also where it stands in an item, as in a VOI LUT or a Real World Value Mapping.
# Seen: at the top of the data set it does (Pixel Padding Value, Smallest Image Pixel Value). In an item it writes US: the first
#   value mapped of a VOI LUT, -2, becomes 65534, and the range -3 to 100 of a Real World Value Mapping begins with 65533. The
#   bytes are the same, the exit code is 0. gdcmconv -X and pydicom write SS. dcmjs writes US at the top as well.
# Matters: implicit VR is the default of old archives, and signed pixels are usual in CT and PET. What works from the old
#   archive fails from the new one: highdicom maps no pixel to a real world value, pydicom does not apply the LUT ("out of
#   bounds"). A reader that knows the context can put it right by Pixel Representation; send such files as they are (storescu
#   -xi).
# Versions: Debian dcmtk 3.6.7-9~deb12u4, libgdcm-tools 3.0.21-1, dcmjs 0.52.2 (npm; Node.js 18 or later), highdicom 0.28.2,
#   pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian libgdcm-tools 3.0.21
command -v npm >/dev/null || missing "npm is not installed"
python_packages venv python3 highdicom==0.28.2 pydicom==3.0.2 numpy==2.2.6
npm install --silent --no-fund --no-audit --prefix node dcmjs@0.52.2 >npm.log 2>&1 || { cat npm.log; exit 2; }
echo "node $(node --version), dcmjs $(node -p "require('./node/node_modules/dcmjs/package.json').version")"
venv/bin/python made_up.py ct1
cat >signed.py <<'END'
import numpy
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

d = pydicom.dcmread("CT1")
d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
d.PixelData = numpy.array([-3, -2, -1, 0] * 64, "<i2").tobytes()
d.RescaleIntercept, d.RescaleSlope, d.RescaleType = 0, 1, "HU"
d.add_new("SmallestImagePixelValue", "SS", -3)
d.add_new("PixelPaddingValue", "SS", -2000)
unit, mapping, lut = Dataset(), Dataset(), Dataset()
unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "[hnsf'U]", "UCUM", "Hounsfield unit"
mapping.add_new("RealWorldValueFirstValueMapped", "SS", -3)
mapping.add_new("RealWorldValueLastValueMapped", "SS", 100)
mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 2.0, 1.0
mapping.LUTLabel, mapping.LUTExplanation, mapping.MeasurementUnitsCodeSequence = "HU", "made up", [unit]
lut.add_new("LUTDescriptor", "SS", [4, -2, 16])
lut.add_new("LUTData", "OW", numpy.array([10, 20000, 40000, 60000], "<u2").tobytes())
d.RealWorldValueMappingSequence, d.VOILUTSequence = [mapping], [lut]
d.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
d.save_as("implicit.dcm", implicit_vr=True, little_endian=True)
d = pydicom.dcmread("implicit.dcm")
d.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
d.save_as("pydicom.dcm", implicit_vr=False, little_endian=True)
END
venv/bin/python signed.py
dcmconv +te implicit.dcm dcmconv.dcm
gdcmconv -X implicit.dcm gdcmconv.dcm
mkdir received
port=$(free_port)
serve "$port" storescp -od received "$port"
expect "storescu's exit code" "$(status_of storescu 127.0.0.1 "$port" implicit.dcm)" 0
mv received/* storescu.dcm
cat >convert.js <<'END'
const fs = require("fs");
const dcmjs = require("./node/node_modules/dcmjs");
const file = fs.readFileSync("implicit.dcm");
const read = dcmjs.data.DicomMessage.readFile(file.buffer.slice(file.byteOffset, file.byteOffset + file.length));
read.meta["00020010"].Value = ["1.2.840.10008.1.2.1"];
fs.writeFileSync("dcmjs.dcm", Buffer.from(read.write()));
END
node convert.js >/dev/null 2>&1
# written FILE: VR and values of padding and smallest value, at the top, and of the mapping and the LUT, in items.
cat >written.py <<'END'
import sys

import pydicom

d = pydicom.dcmread(sys.argv[1])
mapping, lut = d.RealWorldValueMappingSequence[0], d.VOILUTSequence[0]
found = (
    d["PixelPaddingValue"],
    d["SmallestImagePixelValue"],
    mapping["RealWorldValueFirstValueMapped"],
    lut["LUTDescriptor"],
)
print(", ".join(f"{e.VR} {e.value if e.VM == 1 else e.value[1]}" for e in found))
END
written() { venv/bin/python written.py "$1.dcm"; }
cat >used.py <<'END'
import sys

import highdicom
import pydicom
from pydicom.pixels import apply_voi, pixel_array

d = pydicom.dcmread(sys.argv[1])
try:
    print(*apply_voi(pixel_array(d), d)[0, :4], end=", ")
except OverflowError as error:
    print(error, end=", ")
try:
    frame = highdicom.Image.from_dataset(d).get_frame(1, apply_real_world_transform=True, apply_voi_transform=False)
    print(*(int(value) for value in frame[0, :4]))
except ValueError as error:
    print(error)
END
used() { venv/bin/python used.py "$1.dcm" 2>&1 | tail -1; }
expect "dcmconv" "$(written dcmconv)" "SS -2000, SS -3, US 65533, US 65534"
expect "storescu" "$(written storescu)" "SS -2000, SS -3, US 65533, US 65534"
expect "dcmjs" "$(written dcmjs)" "US 63536, US 65533, US 65533, US 65534"
expect "gdcmconv" "$(written gdcmconv)" "SS -2000, SS -3, SS -3, SS -2"
expect "pydicom" "$(written pydicom)" "SS -2000, SS -3, SS -3, SS -2"
expect "LUT and mapping of the implicit file" "$(used implicit)" "10 10 20000 40000, -5 -3 -1 1"
expect "LUT and mapping after dcmconv" "$(used dcmconv)" \
    "Python integer 65534 out of bounds for int16, Array contains value outside the valid range."
expect "LUT and mapping after gdcmconv" "$(used gdcmconv)" "10 10 20000 40000, -5 -3 -1 1"
finish
