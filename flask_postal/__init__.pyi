"""The public names of Flask-Postal, and the modules that define them.

This is the only list of them. Type checkers read it, and ``__init__.py`` reads it at
run time. To add a public name, add a line here.
"""

from .address import Address as Address
from .conversations import read_reply_address as read_reply_address
from .conversations import reply as reply
from .conversations import reply_address as reply_address
from .errors import APIError as APIError
from .errors import CancelSend as CancelSend
from .errors import ConfigurationError as ConfigurationError
from .errors import MessageError as MessageError
from .errors import PayloadError as PayloadError
from .errors import PostalError as PostalError
from .errors import RejectMail as RejectMail
from .errors import RequestRefused as RequestRefused
from .errors import SendError as SendError
from .errors import SignatureError as SignatureError
from .errors import TransportError as TransportError
from .errors import UnsupportedFeature as UnsupportedFeature
from .errors import WebhookError as WebhookError
from .extension import Postal as Postal
from .outcome import BounceReason as BounceReason
from .outcome import BounceType as BounceType
from .outcome import HoldReason as HoldReason
from .outcome import Outcome as Outcome
from .outcome import RejectReason as RejectReason
from .sending.attachment import Attachment as Attachment
from .sending.batch import SendOutcome as SendOutcome
from .sending.message import Message as Message
from .sending.payload import Prepared as Prepared
from .sending.result import RecipientStatus as RecipientStatus
from .sending.result import SendResult as SendResult
from .sending.stored import Activity as Activity
from .sending.stored import Delivery as Delivery
from .sending.stored import MessageDetails as MessageDetails
from .sending.stored import StoredAttachment as StoredAttachment
from .sending.suppression import SuppressionReason as SuppressionReason
from .signals import inbound_received as inbound_received
from .signals import message_sending as message_sending
from .signals import message_sent as message_sent
from .signals import send_failed as send_failed
from .signals import server_event_received as server_event_received
from .signals import tracking_received as tracking_received
from .signals import unsubscribed as unsubscribed
from .signals import webhook_answered as webhook_answered
from .vocabulary import EventType as EventType
from .webhooks.answers import AnswerReason as AnswerReason
from .webhooks.dispatch import Dispatched as Dispatched
from .webhooks.events import InboundEvent as InboundEvent
from .webhooks.events import MailEvent as MailEvent
from .webhooks.events import ServerEvent as ServerEvent
from .webhooks.events import TrackingEvent as TrackingEvent
from .webhooks.events import UnsubscribeEvent as UnsubscribeEvent
from .webhooks.mail.attachment import InboundAttachment as InboundAttachment
from .webhooks.mail.authentication import Authentication as Authentication
from .webhooks.mail.authentication import (
    AuthenticationVerdict as AuthenticationVerdict,
)
from .webhooks.mail.bounce_report import BounceRecipient as BounceRecipient
from .webhooks.mail.bounce_report import BounceReport as BounceReport
from .webhooks.mail.feedback import FeedbackReport as FeedbackReport
from .webhooks.mail.message import InboundMessage as InboundMessage
from .webhooks.verify import VerifiedRequest as VerifiedRequest

__all__: list[str]
