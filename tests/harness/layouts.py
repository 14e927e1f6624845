"""Miniature distributions, written by hand from what the sets' sources show of them.

They prove that the code reads such a layout, not that a set looks like this.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import photo_array

SIZE = (24, 32)  # height, width
NC2016_TABLE = """\
TaskID|ProbeFileID|ProbeFileName|ProbeMaskFileName|IsTarget|BaseFileName
Manipulation|NC2016_0098|probe/NC2016_0098.jpg||N|
Manipulation|NC2016_0128|probe/NC2016_0128.jpg|reference/manipulation/mask/NC2016_3942.png|Y|world/NC2016_3272.jpg
Manipulation|NC2016_0222|probe/NC2016_0222.jpg|reference/manipulation/mask/NC2016_5779.png|Y|world/NC2016_3272.jpg
"""


@dataclass(frozen=True)
class Layout:
    """A distribution.

    Attributes:
        pairs: Tampered images with their masks and their expected source photographs.
        authentic: Authentic images with their expected source photographs.
        mask: How masks are stored: white, black, grey, green or npz.
        clutter: Other images that are known not to belong to the set.
        texts: Other files by path.
    """

    pairs: Sequence[tuple[str, str, tuple[str, ...]]] = ()
    authentic: Sequence[tuple[str, tuple[str, ...]]] = ()
    mask: str = "white"
    clutter: Sequence[str] = ()
    texts: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write it into a folder."""
        for number, (image, mask, _) in enumerate(self.pairs):
            write_photo(folder / image, number)
            write_mask(folder / mask, region(number), self.mask)
        for number, (image, _) in enumerate(self.authentic, 100):
            write_photo(folder / image, number)
        for number, image in enumerate(self.clutter, 200):
            write_photo(folder / image, number)
        for name, text in self.texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return folder


def region(number: int) -> np.ndarray:
    """The tampered region of the n-th pair, bool, away from the border."""
    found = np.zeros(SIZE, bool)
    found[4 + number % 3 : 14, 8 : 20 + number % 5] = True
    return found


def write_photo(path: Path, number: int, size: tuple[int, int] = SIZE) -> None:
    """Write a photograph in the format of the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo_array(*size, number)).save(path)


def write_mask(path: Path, tampered: np.ndarray, kind: str) -> None:
    """Write a mask as the sets have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    white = tampered.astype(np.uint8) * 255
    if kind == "npz":
        np.savez_compressed(path, tampered.astype(np.uint8)[None] * 3)
    elif kind == "green":
        painted = np.zeros((*tampered.shape, 3), np.uint8)
        painted[tampered, 1], painted[~tampered, 0] = 200, 200
        Image.fromarray(painted).save(path, quality=100, subsampling=0)
    elif kind == "grey":  # three levels, the lowest changed one is dark
        Image.fromarray(np.where(np.arange(white.shape[1]) % 2, white, white // 6)).save(path)
    else:
        Image.fromarray(white if kind == "white" else 255 - white).save(path)


LAYOUTS = {
    "CASIAv1": Layout(
        pairs=[
            (
                "CASIA 1.0 dataset/Modified Tp/Tp/Sp/Sp_D_CND_A_pla0005_pla0023_0281.jpg",
                "CASIA 1.0 groundtruth/Sp/Sp_D_CND_A_pla0005_pla0023_0281_gt.png",
                ("CASIAv1:pla0023", "CASIAv1:pla0005"),
            ),
            (
                "CASIA 1.0 dataset/Modified Tp/Tp/CM/Sp_S_CND_A_pla0016_pla0016_0196.jpg",
                "CASIA 1.0 groundtruth/CM/Sp_S_CND_A_pla0016_pla0016_0196_gt.png",
                ("CASIAv1:pla0016",),
            ),
        ],
        authentic=[("CASIA 1.0 dataset/Au/Au/Au_pla_0016.jpg", ("CASIAv1:pla0016",))],
        clutter=["CASIA 1.0 dataset/Modified Tp/Tp/Sp/Sp_D_NRN_A_cha0011_sec0011_0542.jpg"],
        texts={"CASIA 1.0 groundtruth/FileNameCorrection.xlsx": "", "README.md": ""},
    ),
    "CASIAv2": Layout(
        pairs=[
            (
                "CASIA 2.0/Tp/Tp_D_CRN_S_N_cha00063_art00014_11818.jpg",
                "CASIA 2 Groundtruth/Tp_D_CRN_S_N_cha00063_art00014_11818_gt.png",
                ("CASIAv2:art00014", "CASIAv2:cha00063"),
            ),
            (
                "CASIA 2.0/Tp/Tp_S_NNN_S_N_pla00067_pla00067_01174.tif",
                "CASIA 2 Groundtruth/Tp_S_NNN_S_N_pla00067_pla00067_01174_gt.png",
                ("CASIAv2:pla00067",),
            ),
        ],
        authentic=[("CASIA 2.0/Au/Au_ani_00001.jpg", ("CASIAv2:ani00001",)),
                   ("CASIA 2.0/Au/Au_nat_10002.bmp", ("CASIAv2:nat10002",))],
        clutter=["CASIA 2.0/jpg/Tp_S_NNN_S_N_pla00067_pla00067_01174.jpg"],
        texts={"CASIA 2.0/Au/Thumbs.db": "", "Notes/tp_list.txt": ""},
    ),
    "Columbia": Layout(
        pairs=[("4cam_splc/canong3_canonxt_sub_01.tif",
                "4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask.jpg", ())],
        authentic=[("4cam_auth/canong3_02_sub_08.tif", ())],
        mask="green",
        texts={"README.txt": ""},
    ),
    "COVERAGE": Layout(
        pairs=[("image/1t.tif", "mask/1forged.tif", ("COVERAGE:1",)),
               ("image/10t.tif", "mask/10forged.tif", ("COVERAGE:10",))],
        authentic=[("image/1.tif", ("COVERAGE:1",)), ("image/10.tif", ("COVERAGE:10",))],
        clutter=["mask/1copy.tif", "mask/1paste.tif"],
        texts={"label/1.mat": "", "README.md": ""},
    ),
    "NIST16": Layout(
        pairs=[("probe/NC2016_0128.jpg", "reference/manipulation/mask/NC2016_3942.png",
                ("NIST16:world/NC2016_3272.jpg",)),
               ("probe/NC2016_0222.jpg", "reference/manipulation/mask/NC2016_5779.png",
                ("NIST16:world/NC2016_3272.jpg",))],
        authentic=[("probe/NC2016_0098.jpg", ())],
        mask="black",
        clutter=["world/NC2016_3272.jpg", "probe/NC2016_9402.jpg",
                 "reference/splice/mask/NC2016_3942.png"],
        texts={"reference/manipulation/NC2016-manipulation-ref.csv": NC2016_TABLE},
    ),
    "NIST16_world": Layout(
        pairs=[("probe/NC2016_0128.jpg", "reference/manipulation/mask/NC2016_3942.png",
                ("NIST16:world/NC2016_3272.jpg",))],
        authentic=[("world/NC2016_3272.jpg", ("NIST16:world/NC2016_3272.jpg",))],
        mask="black",
        clutter=["probe/NC2016_0098.jpg"],
        texts={"reference/manipulation/NC2016-manipulation-ref.csv": NC2016_TABLE},
    ),
    "NIST16_deduplicated": Layout(
        pairs=[("alter_NIST16_task1/task1/NC2016_0128.jpg",
                "reference/manipulation/mask/NC2016_3942.png", ("NIST16:world/NC2016_3272.jpg",))],
        mask="black",
        clutter=["probe/NC2016_0128.jpg", "world/NC2016_3272.jpg",
                 "alter_NIST16_task1/task1_mask/NC2016_3942.png"],
        texts={"reference/manipulation/NC2016-manipulation-ref.csv": NC2016_TABLE},
    ),
    "NIST16_1024": Layout(
        pairs=[("Tp/NC2016_0128.jpg", "Gt/NC2016_0128.png", ())],
    ),
    "IMD2020": Layout(
        pairs=[("1e5jsy/c9x24tr_0.jpg", "1e5jsy/c9x24tr_0_mask.png", ("IMD2020:1e5jsy",)),
               ("z4/00010_fake_02.png", "z4/00010_fake_02_mask.png", ("IMD2020:z4",))],
        authentic=[("1e5jsy/1e5jsy_orig.jpg", ("IMD2020:1e5jsy",)),
                   ("z4/00010_orig.jpg", ("IMD2020:z4",))],
        clutter=["0jpg/00010_fake_02.jpg"],
    ),
    "FantasticReality": Layout(
        pairs=[("dataset/ColorFakeImages/IMG_0012661_IMG_0009329.jpg",
                "dataset/SegmentationFake/IMG_0012661_IMG_0009329.npz",
                ("FantasticReality:IMG_0012661", "FantasticReality:IMG_0009329"))],
        authentic=[("dataset/ColorRealImages/IMG_0015769.jpg", ("FantasticReality:IMG_0015769",))],
        mask="npz",
    ),
    "tampCOCO_sp": Layout(
        pairs=[("sp_images/65_000000027569.jpg_000000086139.jpg.jpg",
                "sp_masks/65_000000027569.png_000000086139.png.png",
                ("COCO:000000027569", "COCO:000000086139")),
               ("sp_images/87_000000070642.jpg_000000221521.jpg_RT-5.8_RS1.18.jpg",
                "sp_masks/87_000000070642.png_000000221521.png_RT-5.8_RS1.18.png",
                ("COCO:000000070642", "COCO:000000221521"))],
        clutter=["cm_images/93_000000474369.jpg_000000474369.jpg.jpg"],
        texts={"sp_COCO_list.txt": ""},
    ),
    "tampCOCO_cm": Layout(
        pairs=[("cm_images/90_000000484327.jpg_000000484327.jpg_RS1.18.jpg",
                "cm_masks/90_000000484327.png_000000484327.png_RS1.18.png",
                ("COCO:000000484327",))],
        clutter=["bcm_masks/98_000000043613.png_000000043613.png.png"],
    ),
    "tampCOCO_bcm": Layout(
        pairs=[("bcm_images/98_000000043613.jpg_000000043613.jpg.jpg",
                "bcm_masks/98_000000043613.png_000000043613.png.png", ("COCO:000000043613",))],
        clutter=["bcmc_images/98_000000043613_aligned_Q76.jpg_000000043613_aligned_Q76.jpg"
                 "_aligned_Q76.jpg"],
    ),
    "tampCOCO_bcmc": Layout(
        pairs=[("bcmc_images/96_000000346795_aligned_Q62.jpg_000000346795_aligned_Q62.jpg_RT35.6"
                "_RS0.95_aligned_Q62.jpg",
                "bcm_masks/96_000000346795.png_000000346795.png_RT35.6_RS0.95.png",
                ("COCO:000000346795",))],
        clutter=["bcm_images/96_000000346795.jpg_000000346795.jpg_RT35.6_RS0.95.jpg"],
    ),
    "compRAISE": Layout(
        authentic=[("r000da54ft_Q67.jpg", ("RAISE:r000da54ft",)),
                   ("r000da54ft_Q67_aligned_Q87.jpg", ("RAISE:r000da54ft",)),
                   ("r000da54ft_Q67_resize_1.15_Q90.jpg", ("RAISE:r000da54ft",)),
                   ("r5264530bt_Q64_crop_r2c1_Q95.jpg", ("RAISE:r5264530bt",))],
    ),
    "DSO-1": Layout(
        pairs=[("DSO-1/splicing-69.png", "DSO-1-Fake-Images-Masks/splicing-69.png", ())],
        authentic=[("DSO-1/normal-69.png", ())],
        mask="black",
        clutter=["DSI-1/normal-1.png"],
    ),
    "Korus": Layout(
        pairs=[("Canon_60D/tampered-realistic/DPP0012.TIF", "Canon_60D/ground-truth/DPP0012.PNG",
                ("Korus:Canon_60D/DPP0012",))],
        authentic=[("Canon_60D/pristine/DPP0012.TIF", ("Korus:Canon_60D/DPP0012",))],
        mask="grey",
        texts={"readme.md": "", "Canon_60D/prnu.mat": ""},
    ),
    "CocoGlide": Layout(
        pairs=[("fake/glide_inpainting_val2017_114871_up.png",
                "mask/dining table_114871_mask.png", ("COCO:000000114871",)),
               ("fake/glide_inpainting_val2017_4871_up.png",
                "mask/cake_4871_mask.png", ("COCO:000000004871",))],
        authentic=[("real/dining table_114871.png", ("COCO:000000114871",))],
    ),
    "AutoSplice": Layout(
        pairs=[("Forged_JPEG100/56635_2.jpg", "Mask/56635_mask.png", ("AutoSplice:56635",))],
        authentic=[("Authentic/56635.jpg", ("AutoSplice:56635",))],
        clutter=["Forged_JPEG90/56635_2.jpg", "Forged_JPEG75/56635_2.jpg"],
        texts={"Caption/56635.json": "{}"},
    ),
    "AutoSplice_75": Layout(
        pairs=[("Forged_JPEG75/56635_2.jpg", "Mask/56635_mask.png", ("AutoSplice:56635",))],
        clutter=["Forged_JPEG100/56635_2.jpg"],
    ),
    "GRIP": Layout(
        pairs=[("forged_images/TP_C01_013_copy.png", "forged_images/TP_C01_013_gt.png",
                ("GRIP:C01_013",))],
        authentic=[("images/IMG_C01_013.png", ("GRIP:C01_013",))],
    ),
    "CoMoFoD": Layout(
        pairs=[("001_F.png", "001_B.png", ("CoMoFoD:001",))],
        authentic=[("001_O.png", ("CoMoFoD:001",))],
        clutter=["001_F_JC1.jpg", "001_O_BC2.png", "001_M.png"],
        texts={"readme.txt": ""},
    ),
}  # fmt: skip
