"""PURE: what DICOM's basic profile does with each attribute that a table of metadata may have.

PS3.15 (2024b), Table E.1-1, column "Basic Prof.": X remove, Z zero length or dummy, D dummy, U another UID,
K keep, C clean. A code such as X/Z/D leaves the choice to the attribute's type in its IOD. A table has none:
the first, strictest, is taken. What identifies and is not here is removed.
"""

from __future__ import annotations

from typing import Final


def _codes(**keywords: str) -> dict[str, str]:
    return {keyword: code for code, names in keywords.items() for keyword in names.split()}


BASIC: Final[dict[str, str]] = {
    **_codes(
        X="""PatientAge PatientSize PatientWeight StudyDescription SeriesDescription PatientBirthTime
        PatientComments OtherPatientIDs OtherPatientNames EthnicGroup PatientAddress PatientTelephoneNumbers
        PerformingPhysicianName PhysiciansOfRecord NameOfPhysiciansReadingStudy InstitutionAddress
        InstitutionalDepartmentName RequestingPhysician ImageComments AdditionalPatientHistory Allergies
        MedicalAlerts MilitaryRank Occupation PregnancyStatus SmokingStatus GantryID
        PerformedProcedureStepDescription PerformedProcedureStepStartDate PerformedProcedureStepStartTime
        TimezoneOffsetFromUTC IssuerOfPatientID PatientMotherBirthName PatientReligiousPreference""",
        Z="""PatientID PatientName PatientSex PatientBirthDate StudyID StudyDate StudyTime AccessionNumber
        ReferringPhysicianName""",
        U="""StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID MediaStorageSOPInstanceUID
        ReferencedSOPInstanceUID SynchronizationFrameOfReferenceUID ConcatenationUID DimensionOrganizationUID
        InstanceCreatorUID IrradiationEventUID DeviceUID""",
        D="PersonName VerifyingObserverName",
    ),
    **dict.fromkeys(("SeriesDate", "SeriesTime", "ProtocolName", "InstanceCreationDate"), "X/D"),
    **dict.fromkeys(("DeviceSerialNumber", "StationName", "InstitutionName", "OperatorsName"), "X/Z/D"),
    **dict.fromkeys(("AcquisitionDateTime", "InstanceCreationTime"), "X/Z/D"),
    **dict.fromkeys(("AcquisitionDate", "AcquisitionTime", "PatientSexNeutered"), "X/Z"),
    **dict.fromkeys(("ContentDate", "ContentTime", "ContrastBolusAgent"), "Z/D"),
}
"""By keyword, for the columns that we extract and their like."""

OPTIONS: Final[dict[str, dict[str, str]]] = {
    "patient characteristics": _codes(K="PatientAge PatientSex PatientSize PatientWeight"),
    "device identity": _codes(K="DeviceSerialNumber StationName"),
    "institution identity": _codes(K="InstitutionName"),
    "uids": {keyword: "K" for keyword, code in BASIC.items() if code == "U"},
    "modified dates": _codes(C="StudyDate SeriesDate AcquisitionDate ContentDate AcquisitionDateTime"),
}
"""Annex E.3's options by our names for them, with what each does instead. Modified dates are moved by whole
days, the same number for all of one patient."""


def action_of(keyword: str, options: frozenset[str]) -> str | None:
    """X, Z, D, U, K or C; None for an attribute that is not listed."""
    for option in sorted(options):
        if keyword in OPTIONS[option]:
            return OPTIONS[option][keyword]
    code = BASIC.get(keyword)
    return code.split("/")[0] if code else None
