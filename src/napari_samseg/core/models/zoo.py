"""The zoo: published weights, where they lie, their licences and what to cite.

Tables only: `napari_samseg.core.models.weights` downloads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from napari_samseg.core.errors import UnknownNameError

__all__ = ["UNSTATED", "ZOO", "PretrainedModel", "RemoteFile", "find_model"]

SAM_PAPER = "Kirillov et al., Segment Anything, ICCV 2023, arXiv:2304.02643"
MOBILE_SAM_PAPER = (
    "Zhang et al., Faster Segment Anything: Towards Lightweight SAM for Mobile "
    "Applications, 2023, arXiv:2306.14289"
)
MICRO_SAM_PAPER = (
    "Archit et al., Segment Anything for Microscopy, Nature Methods 2025, "
    "doi:10.1038/s41592-024-02580-4"
)
PATHO_SAM_PAPER = (
    "Griebel et al., Segment Anything for Histopathology, 2025, arXiv:2502.00408"
)
MEDICO_SAM_PAPER = (
    "Archit et al., MedicoSAM: Towards foundation models for medical image "
    "segmentation, 2025, arXiv:2501.11734"
)
UNSTATED = "not stated by its authors: ask them before publishing it again"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download.

    Attributes
    ----------
    file_name : str
        Its name in the folder of models.
    url : str
    hash : str
        ``"algorithm:hex"``.
    nbytes : int or None
        Size where a source states it.
    """

    file_name: str
    url: str
    hash: str
    nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class PretrainedModel:
    """Published weights of a model.

    Attributes
    ----------
    name : str
        Its key in `ZOO`.
    family : str
        Its key in `MODEL_FAMILIES`.
    description : str
        One line for a list.
    checkpoint : RemoteFile
    licence, citation : str
    instance_decoder : RemoteFile or None
        micro-sam's decoder for automatic instance segmentation, a separate network
        on the same embeddings.
    """

    name: str
    family: str
    description: str
    checkpoint: RemoteFile
    licence: str
    citation: str
    instance_decoder: RemoteFile | None = None


# URLs and hashes as micro-sam 1.8 publishes them (micro_sam/util.py); sizes of SAM
# from mirrors that keep the files in Git LFS, whose pointers state them.
ZOO: dict[str, PretrainedModel] = {
    "vit_b": PretrainedModel(
        "vit_b",
        "sam",
        "Segment Anything, trained on photographs: ViT-B, the smallest",
        RemoteFile(
            "sam_vit_b_01ec64.pth",
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
            "xxh128:6923c33df3637b6a922d7682bfc9a86b",
            nbytes=375_042_383,
        ),
        licence="Apache-2.0",
        citation=SAM_PAPER,
    ),
    "vit_l": PretrainedModel(
        "vit_l",
        "sam",
        "Segment Anything, trained on photographs: ViT-L, in the middle",
        RemoteFile(
            "sam_vit_l_0b3195.pth",
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
            "xxh128:a82beb3c660661e3dd38d999cc860e9a",
            nbytes=1_249_524_607,
        ),
        licence="Apache-2.0",
        citation=SAM_PAPER,
    ),
    "vit_h": PretrainedModel(
        "vit_h",
        "sam",
        "Segment Anything, trained on photographs: ViT-H, the largest",
        RemoteFile(
            "sam_vit_h_4b8939.pth",
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
            "xxh128:97698fac30bd929c2e6d8d8cc15933c2",
            nbytes=2_564_550_879,
        ),
        licence="Apache-2.0",
        citation=SAM_PAPER,
    ),
    "vit_t": PretrainedModel(
        "vit_t",
        "mobile_sam",
        "MobileSAM: Segment Anything with the small encoder TinyViT",
        RemoteFile(
            "mobile_sam.pt",
            "https://owncloud.gwdg.de/index.php/s/TuDzuwVDHd1ZDnQ/download",
            "xxh128:8eadbc88aeb9d8c7e0b4b60c3db48bd0",
        ),
        licence="Apache-2.0",
        citation=MOBILE_SAM_PAPER,
    ),
    "vit_b_lm": PretrainedModel(
        "vit_b_lm",
        "sam",
        "micro-sam: cells and nuclei in light microscopy, ViT-B",
        RemoteFile(
            "vit_b_lm.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/diplomatic-bug/1.2/files/vit_b.pt",
            "xxh128:fe9252a29f3f4ea53c15a06de471e186",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_b_lm_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/diplomatic-bug/1.2/files/vit_b_decoder.pt",
            "xxh128:708b15ac620e235f90bb38612c4929ba",
        ),
    ),
    "vit_l_lm": PretrainedModel(
        "vit_l_lm",
        "sam",
        "micro-sam: cells and nuclei in light microscopy, ViT-L",
        RemoteFile(
            "vit_l_lm.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/idealistic-rat/1.2/files/vit_l.pt",
            "xxh128:017f20677997d628426dec80a8018f9d",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_l_lm_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/idealistic-rat/1.2/files/vit_l_decoder.pt",
            "xxh128:2faeafa03819dfe03e7c46a44aaac64a",
        ),
    ),
    "vit_t_lm": PretrainedModel(
        "vit_t_lm",
        "mobile_sam",
        "micro-sam: cells and nuclei in light microscopy, TinyViT",
        RemoteFile(
            "vit_t_lm.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/faithful-chicken/1.1/files/vit_t.pt",
            "xxh128:72ec5074774761a6e5c05a08942f981e",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_t_lm_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/faithful-chicken/1.1/files/vit_t_decoder.pt",
            "xxh128:3e914a5f397b0312cdd36813031f8823",
        ),
    ),
    "vit_b_em_organelles": PretrainedModel(
        "vit_b_em_organelles",
        "sam",
        "micro-sam: mitochondria and nuclei in electron microscopy, ViT-B",
        RemoteFile(
            "vit_b_em_organelles.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/noisy-ox/1.2/files/vit_b.pt",
            "xxh128:f3bf2ed83d691456bae2c3f9a05fb438",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_b_em_organelles_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/noisy-ox/1.2/files/vit_b_decoder.pt",
            "xxh128:bb6398956a6b0132c26b631c14f95ce2",
        ),
    ),
    "vit_l_em_organelles": PretrainedModel(
        "vit_l_em_organelles",
        "sam",
        "micro-sam: mitochondria and nuclei in electron microscopy, ViT-L",
        RemoteFile(
            "vit_l_em_organelles.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/humorous-crab/1.2/files/vit_l.pt",
            "xxh128:810b084b6e51acdbf760a993d8619f2d",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_l_em_organelles_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/humorous-crab/1.2/files/vit_l_decoder.pt",
            "xxh128:334877640bfdaaabce533e3252a17294",
        ),
    ),
    "vit_t_em_organelles": PretrainedModel(
        "vit_t_em_organelles",
        "mobile_sam",
        "micro-sam: mitochondria and nuclei in electron microscopy, TinyViT",
        RemoteFile(
            "vit_t_em_organelles.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/greedy-whale/1/files/vit_t.pt",
            "xxh128:253474720c497cce605e57c9b1d18fd9",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_t_em_organelles_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/greedy-whale/1/files/vit_t_decoder.pt",
            "xxh128:8f897c7bb93174a4d1638827c4dd6f44",
        ),
    ),
    "vit_b_histopathology": PretrainedModel(
        "vit_b_histopathology",
        "sam",
        "PathoSAM: nuclei in histopathology, ViT-B",
        RemoteFile(
            "vit_b_histopathology.pt",
            "https://owncloud.gwdg.de/index.php/s/sBB4H8CTmIoBZsQ/download",
            "xxh128:ffd1a2cd84570458b257bd95fdd8f974",
        ),
        licence=UNSTATED,
        citation=PATHO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_b_histopathology_decoder.pt",
            "https://owncloud.gwdg.de/index.php/s/KO9AWqynI7SFOBj/download",
            "xxh128:6a66194dcb6e36199cbee2214ecf7213",
        ),
    ),
    "vit_l_histopathology": PretrainedModel(
        "vit_l_histopathology",
        "sam",
        "PathoSAM: nuclei in histopathology, ViT-L",
        RemoteFile(
            "vit_l_histopathology.pt",
            "https://owncloud.gwdg.de/index.php/s/IZgnn1cpBq2PHod/download",
            "xxh128:b591833c89754271023e901281dee3f2",
        ),
        licence=UNSTATED,
        citation=PATHO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_l_histopathology_decoder.pt",
            "https://owncloud.gwdg.de/index.php/s/oIs6VSmkOp7XrKF/download",
            "xxh128:46aab7765d4400e039772d5a50b55c04",
        ),
    ),
    "vit_h_histopathology": PretrainedModel(
        "vit_h_histopathology",
        "sam",
        "PathoSAM: nuclei in histopathology, ViT-H",
        RemoteFile(
            "vit_h_histopathology.pt",
            "https://owncloud.gwdg.de/index.php/s/L7AcvVz7DoWJ2RZ/download",
            "xxh128:bd1856dafc156a43fb3aa705f1a6e92e",
        ),
        licence=UNSTATED,
        citation=PATHO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_h_histopathology_decoder.pt",
            "https://owncloud.gwdg.de/index.php/s/1qAKxy5H0jgwZvM/download",
            "xxh128:3ed9f87e46ad5e16935bd8d722c8dc47",
        ),
    ),
    "vit_b_medical_imaging": PretrainedModel(
        "vit_b_medical_imaging",
        "sam",
        "MedicoSAM: CT, MRI, ultrasound, X-ray and more, ViT-B",
        RemoteFile(
            "vit_b_medical_imaging.pt",
            "https://owncloud.gwdg.de/index.php/s/f5Ol4FrjPQWfjUF/download",
            "xxh128:40169f1e3c03a4b67bff58249c176d92",
        ),
        licence=UNSTATED,
        citation=MEDICO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_b_medical_imaging_decoder.pt",
            "https://owncloud.gwdg.de/index.php/s/ahd3ZhZl2e0RIwz/download",
            "xxh128:9e498b12f526f119b96c88be76e3b2ed",
        ),
    ),
}


def find_model(name: str) -> PretrainedModel:
    """Return the entry of the zoo called `name`.

    Raises
    ------
    UnknownNameError
        If there is none; the message lists what there is.
    """
    if name not in ZOO:
        raise UnknownNameError(
            f"there is no model {name!r} in the zoo, which has: {', '.join(ZOO)}"
        )
    return ZOO[name]
