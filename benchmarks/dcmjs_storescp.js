// A Storage SCP on dcmjs-dimse that discards what it receives and answers at once.
//
//   node dcmjs_storescp.js PORT [WINDOW]
//
// It grants an operations window of at most WINDOW (16). Data sets go into a stream that keeps nothing, so that the
// parsing of them is not what is measured. At the end of every association it prints how many it answered in all.
'use strict';

const fs = require('fs');
const path = require('path');
const { Writable } = require('stream');

const home = process.env.ASYNCSTORE_DCMJS_DIMSE;
const { Implementation, Scp, Server, constants, log, responses } = require(
  home ? path.join(home, 'dcmjs-dimse') : 'dcmjs-dimse'
);

const port = Number(process.argv[2]);
const window = Number(process.argv[3] || 16);
const hour = 3600 * 1000;
let stored = 0;

log.setLevel('error');
Implementation.setMaxPduLength(131072);

class DiscardingScp extends Scp {
  createStoreWritableStream() {
    return new Writable({ write: (data, encoding, done) => done() });
  }

  createDatasetFromStoreWritableStream(writable, context, callback) {
    callback(undefined);
  }

  associationRequested(association) {
    this.association = association;
    this.socket.setNoDelay(true);
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      context.setResult(constants.PresentationContextResult.Accept, context.getTransferSyntaxUids()[0]);
    }
    if (association.getNegotiateAsyncOps()) {
      const invoked = association.getMaxAsyncOpsInvoked();
      association.setMaxAsyncOpsInvoked(invoked === 0 ? window : Math.min(invoked, window));
      association.setMaxAsyncOpsPerformed(1);
    }
    this.sendAssociationAccept();
  }

  cEchoRequest(request, callback) {
    const response = responses.CEchoResponse.fromRequest(request);
    response.setStatus(constants.Status.Success);
    callback(response);
  }

  cStoreRequest(request, callback) {
    const response = responses.CStoreResponse.fromRequest(request);
    response.setStatus(constants.Status.Success);
    stored += 1;
    callback(response);
  }

  associationReleaseRequested() {
    fs.writeSync(1, `stored ${stored}\n`);
    this.sendAssociationReleaseResponse();
  }
}

const server = new Server(DiscardingScp);
server.on('networkError', (error) => fs.writeSync(2, `${error.message}\n`));
server.listen(port, { connectTimeout: hour, associationTimeout: hour, pduTimeout: hour });
