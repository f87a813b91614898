"""Polygons as files: GeoJSON, and GeoPackage, whose format (OGC 12-128r19) is a SQLite database."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from segplug_datasets.writing import written

_GEOPACKAGE, _VERSION = 0x47504B47, 10300  # SQLite's application_id and user_version
_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
 organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
 description TEXT DEFAULT '', last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
 min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER);
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL PRIMARY KEY, column_name TEXT NOT NULL,
 geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL);
CREATE TABLE classes (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom POLYGON, class TEXT, class_id INTEGER);
"""
_SYSTEMS = [
    ("Undefined Cartesian", -1, "NONE", -1, "undefined", None),
    ("Undefined geographic", 0, "NONE", 0, "undefined", None),
    (
        "WGS 84",
        4326,
        "EPSG",
        4326,
        'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
        'UNIT["degree",0.0174532925199433],AUTHORITY["EPSG","4326"]]',
        None,
    ),
]


class Coordinates(NamedTuple):
    """A coordinate reference system: its EPSG code, None for others and for pixels, and its definition as WKT."""

    epsg: int | None = None
    wkt: str = ""


PIXELS = Coordinates()


class PolygonFile(Protocol):
    """Takes polygons one by one; ``rings`` are closed, (N, 2) as (x, y), the outer one first."""

    def add(self, name: str, class_id: int, rings: Sequence[np.ndarray]) -> None: ...


class _GeoJSON:
    def __init__(self, file: Any, coordinates: Coordinates) -> None:
        self._file, self._comma = file, ""
        # Without it coordinates are degrees; GDAL and QGIS read and write this member of the 2008 version.
        system = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{coordinates.epsg}"}}
        member = f'"crs": {json.dumps(system)}, ' if coordinates.epsg else ""
        file.write(f'{{"type": "FeatureCollection", {member}"features": [')

    def add(self, name: str, class_id: int, rings: Sequence[np.ndarray]) -> None:
        geometry = {"type": "Polygon", "coordinates": [ring.tolist() for ring in _turned(rings)]}
        feature = {"type": "Feature", "properties": {"class": name, "class_id": class_id}, "geometry": geometry}
        self._file.write(f"{self._comma}\n{json.dumps(feature)}")
        self._comma = ","

    def close(self) -> None:
        self._file.write("\n]}\n")


@contextmanager
def geojson(path: Path, coordinates: Coordinates = PIXELS) -> Iterator[PolygonFile]:
    """Write polygons as GeoJSON, with ``class`` and ``class_id``, one per line; the file appears when it is complete.

    Raises:
        DataError: When it cannot be written.
    """
    with written(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        document = _GeoJSON(file, coordinates)
        yield document
        document.close()


class _Database:
    def __init__(self, connection: sqlite3.Connection, name: str, coordinates: Coordinates) -> None:
        self._connection, self.bounds = connection, [np.inf, np.inf, -np.inf, -np.inf]
        connection.execute(f"PRAGMA application_id = {_GEOPACKAGE}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.executescript(_TABLES)
        systems = list(_SYSTEMS)
        self._srs = coordinates.epsg or (100000 if coordinates.wkt else -1)
        if self._srs not in [system[1] for system in systems]:
            kind = "EPSG" if coordinates.epsg else "NONE"
            systems.append((f"{kind} {self._srs}", self._srs, kind, self._srs, coordinates.wkt or "undefined", None))
        connection.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", systems)
        layer = ("classes", "features", name, self._srs)
        connection.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) VALUES (?, ?, ?, ?)", layer
        )
        connection.execute(
            "INSERT INTO gpkg_geometry_columns VALUES ('classes', 'geom', 'POLYGON', ?, 0, 0)", (self._srs,)
        )

    def add(self, name: str, class_id: int, rings: Sequence[np.ndarray]) -> None:
        low, high = rings[0].min(0), rings[0].max(0)
        self.bounds = [*np.minimum(self.bounds[:2], low), *np.maximum(self.bounds[2:], high)]
        # Header without envelope, little-endian; then well-known binary.
        parts = [b"GP\0\1", struct.pack("<i", self._srs), struct.pack("<BII", 1, 3, len(rings))]
        for ring in _turned(rings):
            parts += [struct.pack("<I", len(ring)), np.ascontiguousarray(ring, "<f8").tobytes()]
        row = (b"".join(parts), name, class_id)
        self._connection.execute("INSERT INTO classes (geom, class, class_id) VALUES (?, ?, ?)", row)

    def close(self) -> None:
        if np.isfinite(self.bounds).all():
            bounds = [float(value) for value in self.bounds]
            self._connection.execute("UPDATE gpkg_contents SET min_x = ?, min_y = ?, max_x = ?, max_y = ?", bounds)
        self._connection.commit()


@contextmanager
def geopackage(path: Path, coordinates: Coordinates = PIXELS) -> Iterator[PolygonFile]:
    """Write polygons as the layer ``classes`` of a GeoPackage; the file appears when it is complete.

    Raises:
        DataError: When it cannot be written.
    """
    with written(path) as temporary:
        temporary.unlink(missing_ok=True)
        with closing(sqlite3.connect(temporary)) as connection:
            database = _Database(connection, path.stem, coordinates)
            yield database
            database.close()


def _turned(rings: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield rings in the direction of both formats: the outer one counter-clockwise, holes clockwise."""
    for number, ring in enumerate(rings):
        shifted = np.asarray(ring, np.float64) - ring[0]  # exact for coordinates far from the origin
        (x, y), (next_x, next_y) = shifted[:-1].T, shifted[1:].T
        area = float(np.sum(x * next_y - next_x * y))
        yield ring if (area > 0) == (number == 0) else ring[::-1]
