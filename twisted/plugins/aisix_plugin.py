"""`twistd aisix`."""

from twisted.application.service import ServiceMaker

aisix = ServiceMaker("AISIX", "twisted_gateway.tap", "A streaming AI gateway.", "aisix")
