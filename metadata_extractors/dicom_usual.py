"""PURE: the DICOM columns that there are without asking, and the units that PS3.3 gives attributes."""

from __future__ import annotations

from typing import Final

_PATIENT: Final = (
    "PatientID",
    "PatientName",
    "PatientSex",
    "PatientBirthDate",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
_STUDY: Final = (
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_SERIES: Final = (
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "Modality",
    "BodyPartExamined",
    "Laterality",
    "PatientPosition",
    "ProtocolName",
)
_EQUIPMENT: Final = (
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "StationName",
    "InstitutionName",
)
_IMAGE: Final = (
    "SOPInstanceUID",
    "SOPClassUID",
    "InstanceNumber",
    "AcquisitionNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "ImageType",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "WindowCenter",
    "WindowWidth",
    "TransferSyntaxUID",
)
_PLANE: Final = (
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SliceLocation",
)
_CT: Final = (
    "KVP",
    "XRayTubeCurrent",
    "Exposure",
    "ExposureTime",
    "ConvolutionKernel",
    "ReconstructionDiameter",
    "GantryDetectorTilt",
    "SpiralPitchFactor",
    "CTDIvol",
)
_MR: Final = (
    "MagneticFieldStrength",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "EchoTrainLength",
    "ScanningSequence",
    "SequenceVariant",
    "SequenceName",
    "MRAcquisitionType",
    "ImagingFrequency",
    "DiffusionBValue",
)
_CONTRAST: Final = ("ContrastBolusAgent",)

DEFAULT_COLUMNS: Final = (
    _PATIENT + _STUDY + _SERIES + _EQUIPMENT + _IMAGE + _PLANE + _CT + _MR + _CONTRAST
)  # fmt: skip

UNITS: Final = {
    "CTDIvol": "mGy",
    "DiffusionBValue": "s/mm2",
    "EchoTime": "ms",
    "Exposure": "mA.s",
    "ExposureTime": "ms",
    "FlipAngle": "deg",
    "GantryDetectorTilt": "deg",
    "ImagePositionPatient": "mm",
    "ImagerPixelSpacing": "mm",
    "ImagingFrequency": "MHz",
    "InversionTime": "ms",
    "KVP": "kV",
    "MagneticFieldStrength": "T",
    "PatientSize": "m",
    "PatientWeight": "kg",
    "PixelSpacing": "mm",
    "ReconstructionDiameter": "mm",
    "RepetitionTime": "ms",
    "SliceLocation": "mm",
    "SliceThickness": "mm",
    "SpacingBetweenSlices": "mm",
    "TriggerTime": "ms",
    "XRayTubeCurrent": "mA",
}
"""UCUM codes, for values as the file has them: nothing is converted."""
