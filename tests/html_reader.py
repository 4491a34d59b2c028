"""Reads built HTML for tests: its elements, the words in them, and its skeleton of tags."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {
    "area",
    "base",
    "br",
    "circle",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "path",
    "rect",
    "source",
    "wbr",
}


@dataclass
class Element:
    """One element with everything in it."""

    tag: str
    attributes: dict[str, str]
    children: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def words(self) -> str:
        """All text inside, on one line; every element is a word of its own."""
        parts = [child if isinstance(child, str) else child.words for child in self.children]
        return " ".join(" ".join(parts).split())

    def all(self, *tags: str, **attributes: str) -> list["Element"]:
        """Elements inside, in order: of these tags (any without), with these words among an attribute's."""
        found = []
        for child in self.children:
            if isinstance(child, str):
                continue
            wanted = all(
                word in child.attributes.get(name.rstrip("_"), "").split()
                for name, word in attributes.items()
            )
            if wanted and (not tags or child.tag in tags):
                found.append(child)
            found += child.all(*tags, **attributes)
        return found

    def one(self, *tags: str, **attributes: str) -> "Element":
        """The only such element."""
        (found,) = self.all(*tags, **attributes)
        return found

    @property
    def skeleton(self) -> list[str]:
        """Tags as they open and close, without text and attributes."""
        inner = [part for child in self.children if not isinstance(child, str) for part in child.skeleton]
        return [f"<{self.tag}>", *inner, f"</{self.tag}>"]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        # What HTML lets one leave out (</p>, </li>) ends with its parent; an end without a start is ignored.
        for depth in range(len(self.open) - 1, 0, -1):
            if self.open[depth].tag == tag:
                del self.open[depth:]
                return

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_html(text: str) -> Element:
    """The document as a tree."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.root
