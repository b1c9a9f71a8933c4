"""Where the transformations that come with the gateway are; nothing is loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "html2pdf": "gateway_transform.converters.html:html2pdf",
        "markdown2html": "gateway_transform.converters.markdown:markdown2html",
        "markdown2pdf": "gateway_transform.converters.markdown:markdown2pdf",
        "docx2html": "gateway_transform.converters.word:docx2html",
        "docx2markdown": "gateway_transform.converters.word:docx2markdown",
        "pdf_merge": "gateway_transform.converters.pdf:pdf_merge",
        "pdf_split": "gateway_transform.converters.pdf:pdf_split",
        "pdf_rotate": "gateway_transform.converters.pdf:pdf_rotate",
        "pdf2text": "gateway_transform.converters.pdf:pdf2text",
        "pdf2png": "gateway_transform.converters.pdf:pdf2png",
        "image_resize": "gateway_transform.converters.image:image_resize",
        "image_convert": "gateway_transform.converters.image:image_convert",
        "office2pdf": "gateway_transform.converters.office:office2pdf",
        "pandoc": "gateway_transform.converters.pandoc:pandoc",
        "ocr": "gateway_transform.converters.ocr:ocr",
    }
)
"""Name to ``module:attribute``, as ``transform_transformations()`` wants it."""
