#!/usr/bin/env bash
# Guess: a library that gives pixel values gives -2 for a signed sample of 12 bits in 16 (Bits Stored 12, Pixel Representation 1)
#   whose bytes are 0FFE as for FFFE: the sign is in High Bit, and what is above that does not belong to the sample (PS3.5 8.1.1).
# Seen: dicomsdl and daikon read the whole word: 4094 in place of -2, and the rescaled values are off by 4096 times the slope.
#   Positive values, and samples with the sign in the upper bits as well, are right. pydicom, DCMTK, SimpleITK and
#   dcmjs-imaging read both alike.
# Matters: most devices fill the upper bits, so that a test with a few files shows nothing. CT of one that does not has air at
#   +3000 in these two, which shows in a picture, and single wrong voxels in MR phase or subtraction images, which do not. Mask
#   and extend the sign by Bits Stored oneself, or read with another library.
# Versions: dicomsdl 0.109.4, daikon 1.2.46, dcmjs-imaging 0.2.5 (npm; Node.js 18 or later), pydicom 3.0.2, SimpleITK 2.5.7,
#   numpy 2.2.6 (Python 3.10 or later), Debian dcmtk 3.6.7-9~deb12u4.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
command -v npm >/dev/null || missing "npm is not installed"
python_packages venv python3 pydicom==3.0.2 dicomsdl==0.109.4 simpleitk==2.5.7 numpy==2.2.6
npm install --silent --no-fund --no-audit --prefix node daikon@1.2.46 dcmjs-imaging@0.2.5 >npm.log 2>&1 || { cat npm.log; exit 2; }
for package in daikon dcmjs-imaging; do
    echo "$package $(node -p "require('./node/node_modules/$package/package.json').version")"
done
venv/bin/python made_up.py ct1
cat >signed.py <<'END'
import numpy
import pydicom

d = pydicom.dcmread("CT1")
d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 1
d.RescaleSlope, d.RescaleIntercept, d.WindowCenter, d.WindowWidth = 1, 0, 0, 40
samples = numpy.full(256, -2, "<i2")
samples[128:] = 10
d.PixelData = samples.tobytes()
d.save_as("extended.dcm")
d.PixelData = (samples.view("<u2") & 0x0FFF).tobytes()
d.save_as("plain.dcm")
END
venv/bin/python signed.py
cat >read.py <<'END'
import sys

import dicomsdl
import pydicom
import SimpleITK

path = sys.argv[1]
image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
by_dicomsdl = dicomsdl.open(path).pixelData(storedvalue=True)
for name, values in ("pydicom", pydicom.dcmread(path).pixel_array), ("SimpleITK", image), ("dicomsdl", by_dicomsdl):
    print(f"{name} {values.flat[0]} {values.flat[255]}", end=", ")
END
cat >read.js <<'END'
const fs = require('fs');
const daikon = require('./node/node_modules/daikon');
const { DicomImage } = require('./node/node_modules/dcmjs-imaging');
const file = fs.readFileSync(process.argv[2]);
const bytes = file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
const { data } = daikon.Series.parseImage(new DataView(bytes)).getInterpretedData(false, true);
const grey = new Uint8Array(new DicomImage(bytes).render().pixels);
console.log(`daikon ${data[0]} ${data[255]}, dcmjs-imaging grey ${grey[0]} ${grey[4 * 255]}`);
END
# told FILE: the first and the last sample by each library; those that draw show them as grey of a window of 40 about 0.
told() {
    venv/bin/python read.py "$1"
    node read.js "$1" | tail -1
}
# drawn FILE: the same by DCMTK.
drawn() {
    dcm2pnm +Wi 1 --write-raw-pnm "$1" out.pgm
    tail -c 256 out.pgm | python3 -c 'import sys; grey = sys.stdin.buffer.read(); print(grey[0], grey[255])'
}
grey=$(drawn extended.dcm)
expect "sign in all upper bits" "$(told extended.dcm)" \
    "pydicom -2 10, SimpleITK -2 10, dicomsdl -2 10, daikon -2 10, dcmjs-imaging grey 117 196"
expect "sign in High Bit" "$(told plain.dcm)" \
    "pydicom -2 10, SimpleITK -2 10, dicomsdl 4094 10, daikon 4094 10, dcmjs-imaging grey 117 196"
expect "DCMTK draws both" "$(drawn plain.dcm)" "$grey"
finish
