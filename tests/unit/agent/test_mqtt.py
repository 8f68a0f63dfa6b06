from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from agent.mqtt import loss_reason


def test_a_broker_that_tells_of_a_takeover_is_understood():
    assert loss_reason(ReasonCode(PacketTypes.DISCONNECT, identifier=142)) == "taken_over"
    assert loss_reason(ReasonCode(PacketTypes.DISCONNECT, identifier=128)) == "Unspecified error"
