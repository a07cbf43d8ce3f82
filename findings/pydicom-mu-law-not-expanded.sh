#!/usr/bin/env bash
# Guess: pydicom's waveform_array() gives the samples of a waveform in 8-bit mu-law or A-law (Waveform Sample Interpretation MB,
#   AB; PS3.3 C.10.9.1.5) as linear values, or raises NotImplementedError, as for pixels that it cannot decode.
# Seen: it returns the code bytes as if they were linear: silence (FF in mu-law) is 255 beside the loudest positive sample, 128,
#   and the loudest negative one, 0. With a Channel Sensitivity it multiplies the codes by it, and calls the result values in
#   the unit of the channel. No word, neither in the documentation of the function.
# Matters: mu-law and A-law are what Basic Voice Audio has: dictations and audio of the heart. What is converted to another
#   format from these arrays is noise with the length of the recording; a test of the file's size, or of the number of samples,
#   is content. Expand the samples oneself (ITU-T G.711; as ffmpeg does from raw bytes with -f mulaw).
# Versions: pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 pydicom==3.0.2 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >audio.py <<'END'
import pydicom
from pydicom.dataset import Dataset

for interpretation, codes in (("MB", (0xFF, 0x80, 0x00, 0x7F)), ("AB", (0xD5, 0xAA, 0x2A, 0x55))):
    d = pydicom.dcmread("CT1")
    for keyword in [e.keyword for e in d.group_dataset(0x28)] + ["PixelData"]:
        del d[keyword]
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.9.4.1"
    d.Modality = "AU"
    waveform, channel, source = Dataset(), Dataset(), Dataset()
    source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = "109110", "DCM", "Voice"
    channel.ChannelSourceSequence, channel.WaveformBitsStored = [source], 8
    waveform.WaveformOriginality, waveform.NumberOfWaveformChannels, waveform.NumberOfWaveformSamples = "ORIGINAL", 1, 4
    waveform.SamplingFrequency, waveform.ChannelDefinitionSequence = 8000, [channel]
    waveform.WaveformBitsAllocated, waveform.WaveformSampleInterpretation = 8, interpretation
    waveform.add_new("WaveformData", "OB", bytes(codes))
    d.WaveformSequence = [waveform]
    d.save_as("audio.dcm")
    print(interpretation, *map(int, pydicom.dcmread("audio.dcm").waveform_array(0).ravel()), end=", ")
    channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = 2, 1, 0
    d.save_as("audio.dcm")
    print("with a sensitivity of 2:", *map(int, pydicom.dcmread("audio.dcm").waveform_array(0).ravel()))
END
venv/bin/python -W error audio.py >seen.txt
# By G.711 the four codes are: +0, the largest, the smallest, -0 (of mu-law 0, 32124, -32124, 0 in 16 bits).
expect "mu-law" "$(sed -n 1p seen.txt)" "MB 255 128 0 127, with a sensitivity of 2: 510 256 0 254"
expect "A-law" "$(sed -n 2p seen.txt)" "AB 213 170 42 85, with a sensitivity of 2: 426 340 84 170"
finish
