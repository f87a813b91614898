"""Mapillary Vistas: street scenes from all continents, in two editions (Neuhold et al., 2017).

Homepage: www.mapillary.com/dataset/vistas. CC BY-NC-SA, for research, after registration.
"""

from __future__ import annotations

from segplug_datasets.files import BaseSegDataset, DataPrefix
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.tables import colors, names

_CLASSES_V1 = """
Bird, Ground Animal, Curb, Fence, Guard Rail, Barrier, Wall, Bike Lane, Crosswalk - Plain, Curb Cut, Parking,
Pedestrian Area, Rail Track, Road, Service Lane, Sidewalk, Bridge, Building, Tunnel, Person, Bicyclist, Motorcyclist,
Other Rider, Lane Marking - Crosswalk, Lane Marking - General, Mountain, Sand, Sky, Snow, Terrain, Vegetation, Water,
Banner, Bench, Bike Rack, Billboard, Catch Basin, CCTV Camera, Fire Hydrant, Junction Box, Mailbox, Manhole, Phone
Booth, Pothole, Street Light, Pole, Traffic Sign Frame, Utility Pole, Traffic Light, Traffic Sign (Back), Traffic
Sign (Front), Trash Can, Bicycle, Boat, Bus, Car, Caravan, Motorcycle, On Rails, Other Vehicle, Trailer, Truck,
Wheeled Slow, Car Mount, Ego Vehicle, Unlabeled
"""

_PALETTE_V1 = """
a52a2a 00c000 c4c4c4 be9999 b4a5b4 5a7896 66669c 8040ff 8c8cc8 aaaaaa faaaa0 606060 e6968c 804080 6e6e6e f423e8
966464 464646 96785a dc143c ff0000 ff0064 ff00c8 c88080 ffffff 40aa40 e6a032 4682b4 beffff 98fb98 6b8e23 00aa1e
ffff80 fa001e 648cb4 dcdcdc dc8080 de2828 64aa1e 282828 212121 6480a0 8e0000 466496 d2aa64 999999 808080 000050
faaa1e c0c0c0 dcdc00 8c8c14 770b20 9600ff 003c64 00008e 00005a 0000e6 005064 804040 00006e 000046 0000c0 202020
780a0a 000000
"""

_CLASSES_V2 = """
Bird, Ground Animal, Ambiguous Barrier, Concrete Block, Curb, Fence, Guard Rail, Barrier, Road Median, Road Side,
Lane Separator, Temporary Barrier, Wall, Bike Lane, Crosswalk - Plain, Curb Cut, Driveway, Parking, Parking Aisle,
Pedestrian Area, Rail Track, Road, Road Shoulder, Service Lane, Sidewalk, Traffic Island, Bridge, Building, Garage,
Tunnel, Person, Person Group, Bicyclist, Motorcyclist, Other Rider, Lane Marking - Dashed Line, Lane Marking -
Straight Line, Lane Marking - Zigzag Line, Lane Marking - Ambiguous, Lane Marking - Arrow (Left), Lane Marking -
Arrow (Other), Lane Marking - Arrow (Right), Lane Marking - Arrow (Split Left or Straight), Lane Marking - Arrow
(Split Right or Straight), Lane Marking - Arrow (Straight), Lane Marking - Crosswalk, Lane Marking - Give Way (Row),
Lane Marking - Give Way (Single), Lane Marking - Hatched (Chevron), Lane Marking - Hatched (Diagonal), Lane Marking -
Other, Lane Marking - Stop Line, Lane Marking - Symbol (Bicycle), Lane Marking - Symbol (Other), Lane Marking - Text,
Lane Marking (only) - Dashed Line, Lane Marking (only) - Crosswalk, Lane Marking (only) - Other, Lane Marking (only)
- Test, Mountain, Sand, Sky, Snow, Terrain, Vegetation, Water, Banner, Bench, Bike Rack, Catch Basin, CCTV Camera,
Fire Hydrant, Junction Box, Mailbox, Manhole, Parking Meter, Phone Booth, Pothole, Signage - Advertisement, Signage -
Ambiguous, Signage - Back, Signage - Information, Signage - Other, Signage - Store, Street Light, Pole, Pole Group,
Traffic Sign Frame, Utility Pole, Traffic Cone, Traffic Light - General (Single), Traffic Light - Pedestrians,
Traffic Light - General (Upright), Traffic Light - General (Horizontal), Traffic Light - Cyclists, Traffic Light -
Other, Traffic Sign - Ambiguous, Traffic Sign (Back), Traffic Sign - Direction (Back), Traffic Sign - Direction
(Front), Traffic Sign (Front), Traffic Sign - Parking, Traffic Sign - Temporary (Back), Traffic Sign - Temporary
(Front), Trash Can, Bicycle, Boat, Bus, Car, Caravan, Motorcycle, On Rails, Other Vehicle, Trailer, Truck, Vehicle
Group, Wheeled Slow, Water Valve, Car Mount, Dynamic, Ego Vehicle, Ground, Static, Unlabeled
"""

_PALETTE_V2 = """
a52a2a 00c000 faaa1f faaa20 c4c4c4 be9999 b4a5b4 5a7896 faaa21 faaa22 808080 faaa23 66669c 8040ff 8c8cc8 aaaaaa
faaa24 faaaa0 faaa25 606060 e6968c 804080 6e6e6e 6e6e6e f423e8 80c480 966464 464646 969696 96785a dc143c dc143c
ff0000 ff0064 ff00c8 ffffff ffffff faaa1d faaa1c faaa1a faaa19 faaa18 faaa16 faaa15 faaa14 ffffff faaa13 faaa12
faaa0c faaa0b ffffff ffffff faaa10 faaa0f faaa0f ffffff ffffff ffffff ffffff 40aa40 e6a032 4682b4 beffff 98fb98
6b8e23 00aa1e ffff80 fa001e 648cb4 dc8080 de2828 64aa1e 282828 212121 6480a0 1414ff 8e0000 466496 faab1e faac1e
faad1e faae1e faaf1e fab01e d2aa64 999999 999999 808080 000050 d23c3c faaa1e faaa1e faaa1e faaa1e faaa1e faaa1e
c0c0c0 c0c0c0 c0c0c0 dcdc00 dcdc00 0000c4 c0c0c0 dcdc00 8c8c14 770b20 9600ff 003c64 00008e 00005a 0000e6 005064
804040 00006e 000046 00008e 0000c0 aaaaaa 202020 6f4a00 780a0a 510051 6f6f00 000000
"""


class MapillaryDataset_v1(BaseSegDataset):
    """Edition 1.2: 66 classes, of which the last is "unlabelled"."""

    spec = LabelSpec(classes=names(_CLASSES_V1), palette=colors(_PALETTE_V1))
    root = "data/mapillary"
    prefix = DataPrefix(img_path="training/images", seg_map_path="training/v1.2/labels")


class MapillaryDataset_v2(BaseSegDataset):
    """Edition 2.0: 124 classes, of which the last is "unlabelled"."""

    spec = LabelSpec(classes=names(_CLASSES_V2), palette=colors(_PALETTE_V2))
    root = "data/mapillary"
    prefix = DataPrefix(img_path="training/images", seg_map_path="training/v2.0/labels")
