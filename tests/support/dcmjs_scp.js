// A Storage SCP of dcmjs-dimse with a real asynchronous operations window, which also commits to what it stored.
//
// Its one argument is a JSON object: module, port, directory, invoked, performed, hold, maximumLength, reportPort (0:
// reports of storage commitment go on the association that asked).
// It holds requests back and answers the newest first, so that a sender sees answers out of order.
// Every request and response is a JSON line on stdout.
'use strict';

const fs = require('fs');
const net = require('net');
const path = require('path');
const { Writable } = require('stream');

const settings = JSON.parse(process.argv[2]);
const { Client, Dataset, Implementation, Scp, Server, log, constants, requests, responses } = require(settings.module);
const { PresentationContextResult, Status } = constants;

// Requests that came before a silence of this long are answered though fewer than `hold` are waiting.
const SILENCE_MILLISECONDS = 20;

const PUSH_MODEL_INSTANCE = '1.2.840.10008.1.20.1.1';
const NO_SUCH_INSTANCE = 0x0112;
const CLASS_INSTANCE_CONFLICT = 0x0119;

const storedClasses = new Map();

log.setLevel('error');
Implementation.setMaxPduLength(settings.maximumLength);

function tell(event, messageId, outstanding) {
  process.stdout.write(JSON.stringify({ event, message_id: messageId, outstanding }) + '\n');
}

function element(number, vr, value) {
  const long = vr === 'OB';
  const head = Buffer.alloc(long ? 12 : 8);
  head.writeUInt16LE(0x0002, 0);
  head.writeUInt16LE(number, 2);
  head.write(vr, 4, 'ascii');
  if (long) head.writeUInt32LE(value.length, 8);
  else head.writeUInt16LE(value.length, 6);
  return Buffer.concat([head, value]);
}

function commitmentReport(information) {
  const asked = [information.getElement('ReferencedSOPSequence')].flat();
  const committed = [];
  const failed = [];
  for (const { ReferencedSOPClassUID, ReferencedSOPInstanceUID } of asked) {
    const known = storedClasses.get(ReferencedSOPInstanceUID);
    const reference = { ReferencedSOPClassUID, ReferencedSOPInstanceUID };
    if (known === ReferencedSOPClassUID) committed.push(reference);
    else failed.push({ ...reference, FailureReason: known ? CLASS_INSTANCE_CONFLICT : NO_SUCH_INSTANCE });
  }
  const report = new requests.NEventReportRequest(
    constants.SopClass.StorageCommitmentPushModel,
    PUSH_MODEL_INSTANCE,
    failed.length ? 2 : 1
  );
  const lists = {};
  if (committed.length) lists.ReferencedSOPSequence = committed;
  if (failed.length) lists.FailedSOPSequence = failed;
  report.setDataset(new Dataset({ TransactionUID: information.getElement('TransactionUID'), ...lists }));
  return report;
}

function uid(text) {
  return Buffer.from(text.length % 2 ? text + '\0' : text, 'ascii');
}

function fileMeta(request, transferSyntax) {
  const rest = Buffer.concat([
    element(0x0001, 'OB', Buffer.from([0, 1])),
    element(0x0002, 'UI', uid(request.getAffectedSopClassUid())),
    element(0x0003, 'UI', uid(request.getAffectedSopInstanceUid())),
    element(0x0010, 'UI', uid(transferSyntax)),
    element(0x0012, 'UI', uid(Implementation.getImplementationClassUid())),
  ]);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(rest.length, 0);
  return Buffer.concat([Buffer.alloc(128), Buffer.from('DICM'), element(0x0000, 'UL', length), rest]);
}

class Collector extends Writable {
  constructor(request) {
    // The library loses its place when a write must wait while the next message is coming in.
    super({ highWaterMark: 2 ** 31 });
    this.request = request;
    this.parts = [];
  }

  _write(part, encoding, done) {
    this.parts.push(Buffer.from(part));
    done();
  }
}

class WindowScp extends Scp {
  constructor(socket, options) {
    super(socket, options);
    this.waiting = [];
    this.timer = undefined;
  }

  associationRequested(association) {
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      context.setResult(PresentationContextResult.Accept, context.getTransferSyntaxUids()[0]);
    }
    if (association.getNegotiateAsyncOps()) {
      const least = (proposed, own) => (proposed === 0 ? own : Math.min(proposed, own));
      association.setMaxAsyncOpsInvoked(least(association.getMaxAsyncOpsInvoked(), settings.invoked));
      association.setMaxAsyncOpsPerformed(least(association.getMaxAsyncOpsPerformed(), settings.performed));
    }
    this.sendAssociationAccept();
  }

  createStoreWritableStream(context, request) {
    return new Collector(request);
  }

  createDatasetFromStoreWritableStream(stream, context, done) {
    const syntax = context.getAcceptedTransferSyntaxUid();
    const name = path.join(settings.directory, stream.request.getAffectedSopInstanceUid());
    fs.writeFileSync(name, Buffer.concat([fileMeta(stream.request, syntax), ...stream.parts]));
    done(undefined);
  }

  cEchoRequest(request, answer) {
    const response = responses.CEchoResponse.fromRequest(request);
    response.setStatus(Status.Success);
    answer(response);
  }

  nActionRequest(request, answer) {
    const response = responses.NActionResponse.fromRequest(request);
    response.setStatus(Status.Success);
    answer(response);
    const report = commitmentReport(request.getDataset());
    if (!settings.reportPort) {
      this.sendRequests(report);
      return;
    }
    const client = new Client();
    client.on('networkError', () => {});
    client.addRequest(report);
    client.send('127.0.0.1', settings.reportPort, 'DCMJS', 'STORESCU');
  }

  cStoreRequest(request, answer) {
    storedClasses.set(request.getAffectedSopInstanceUid(), request.getAffectedSopClassUid());
    this.waiting.push({ request, answer });
    tell('request', request.getMessageId(), this.waiting.length);
    clearTimeout(this.timer);
    if (this.waiting.length >= settings.hold) this.answerAll();
    else this.timer = setTimeout(() => this.answerAll(), SILENCE_MILLISECONDS);
  }

  answerAll() {
    while (this.waiting.length) {
      const { request, answer } = this.waiting.pop();
      const response = responses.CStoreResponse.fromRequest(request);
      response.setStatus(Status.Success);
      tell('response', request.getMessageId(), this.waiting.length);
      answer(response);
    }
  }

  associationReleaseRequested() {
    this.answerAll();
    this.sendAssociationReleaseResponse();
  }

  abort() {
    clearTimeout(this.timer);
    this.waiting = [];
  }
}

// The library listens on every interface; a test's server belongs on loopback.
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port) {
  return listen.call(this, { port, host: '127.0.0.1' });
};

const server = new Server(WindowScp);
server.on('networkError', () => {});
const read = (name) => require('fs').readFileSync(name);
const { key, cert, ca } = settings.tls || {};
const security = key && {
  securityOptions: { key: read(key), cert: read(cert), ca: read(ca), requestCert: true, rejectUnauthorized: true },
};
server.listen(settings.port, security || undefined);
