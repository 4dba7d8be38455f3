"""`twistd aisix`, and `twistd --reactor aisix`."""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

aisix = ServiceMaker("AISIX", "twisted_gateway.tap", "A streaming AI gateway.", "aisix")
reactor = Reactor("aisix", "twisted_gateway.reactor", "epoll, sending once per turn.")
