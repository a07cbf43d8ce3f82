#!/usr/bin/env bash
# Guess: dcmjs-imaging draws an image with VOI LUT Function LINEAR_EXACT as PS3.3 C.11.2.1.3.2 says: the value at Window Center is
#   medium grey, and black and white are half a Window Width below and above. It differs from LINEAR by less than a grey level
#   in a window of some width.
# Seen: the picture is half a window too dark: Window Center is black, and medium grey is where white should begin. LINEAR (as
#   without the attribute) and SIGMOID are right. pydicom is right in all of them; dcm2pnm says that it does not know
#   LINEAR_EXACT and takes LINEAR, which is nearly the same.
# Matters: LINEAR_EXACT is for values with fractions, as in parametric maps and PET. Half of what the window should show is
#   black. Take the attribute out of the data set before it is drawn.
# Versions: dcmjs-imaging 0.2.5 (npm; Node.js 18 or later), pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or later), Debian dcmtk
#   3.6.7-9~deb12u4.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
command -v npm >/dev/null || missing "npm is not installed"
python_packages venv python3 pydicom==3.0.2 numpy==2.2.6
npm install --silent --no-fund --no-audit --prefix node dcmjs-imaging@0.2.5 >npm.log 2>&1 || { cat npm.log; exit 2; }
echo "node $(node --version), dcmjs-imaging $(node -p "require('./node/node_modules/dcmjs-imaging/package.json').version")"
venv/bin/python made_up.py ct1
cat >windows.py <<'END'
import pydicom

d = pydicom.dcmread("CT1")
d.RescaleSlope, d.RescaleIntercept, d.WindowCenter, d.WindowWidth = 1, 0, 128, 100
for function in "LINEAR", "LINEAR_EXACT", "SIGMOID":
    d.VOILUTFunction = function
    d.save_as(f"{function}.dcm")
END
venv/bin/python windows.py
# The image has the values 0 to 255 in this order; these are looked at.
cat >by_pydicom.py <<'END'
import sys

import pydicom
from pydicom.pixels import apply_voi_lut

d = pydicom.dcmread(sys.argv[1])
grey = apply_voi_lut(d.pixel_array, d)
print(*(int(grey.flat[value]) for value in (70, 103, 128, 153, 178)))
END
cat >by_dcmjs.js <<'END'
const fs = require('fs');
const { DicomImage } = require('./node/node_modules/dcmjs-imaging');
const file = fs.readFileSync(process.argv[2]);
const image = new DicomImage(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength));
const grey = new Uint8Array(image.render().pixels);
console.log(...[70, 103, 128, 153, 178].map((value) => grey[4 * value]));
END
by_dcmtk() {
    dcm2pnm +Wi 1 --write-raw-pnm "$1" out.pgm 2>/dev/null
    tail -c 256 out.pgm | python3 -c 'import sys; g = sys.stdin.buffer.read(); print(*(g[v] for v in (70, 103, 128, 153, 178)))'
}
expect "LINEAR, pydicom" "$(venv/bin/python by_pydicom.py LINEAR.dcm)" "0 64 128 193 255"
expect "DCMTK" "$(by_dcmtk LINEAR.dcm)" "0 64 128 193 255"
expect "dcmjs-imaging" "$(node by_dcmjs.js LINEAR.dcm | tail -1)" "0 64 128 193 255"
expect "LINEAR_EXACT, pydicom" "$(venv/bin/python by_pydicom.py LINEAR_EXACT.dcm)" "0 63 127 191 255"
expect "DCMTK" "$(by_dcmtk LINEAR_EXACT.dcm)" "0 64 128 193 255"
expect "dcmjs-imaging" "$(node by_dcmjs.js LINEAR_EXACT.dcm | tail -1)" "0 0 0 63 127"
expect "SIGMOID, pydicom" "$(venv/bin/python by_pydicom.py SIGMOID.dcm)" "22 68 127 186 224"
expect "DCMTK" "$(by_dcmtk SIGMOID.dcm)" "22 68 127 186 224"
expect "dcmjs-imaging" "$(node by_dcmjs.js SIGMOID.dcm | tail -1)" "22 68 127 186 224"
finish
