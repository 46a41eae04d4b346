"""The DICOM extractor, a version on."""

from __future__ import annotations

from metadata_extractors.dicom import DicomExtractor


class NewerDicom(DicomExtractor):
    version = "1000"
