// A Storage SCU on dcmjs-dimse: sends every file below the paths on one association.
//
//   node dcmjs_storescu.js PORT WINDOW PATH...
//
// The exit code is 0 when every instance was answered with success.
'use strict';

const fs = require('fs');
const net = require('net');
const path = require('path');

const home = process.env.ASYNCSTORE_DCMJS_DIMSE;
const { Client, Implementation, constants, log, requests } = require(
  home ? path.join(home, 'dcmjs-dimse') : 'dcmjs-dimse'
);

const port = Number(process.argv[2]);
const window = Number(process.argv[3]);
const hour = 3600 * 1000;
let expected = 0;
let stored = 0;

// The library writes the command and the data set apart and leaves Nagle's algorithm on; what TCP_NODELAY=1 does for
// the other senders is done here.
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function connectWithoutDelay(...rest) {
  this.setNoDelay(true);
  return connect.apply(this, rest);
};

log.setLevel('error');
Implementation.setMaxPduLength(131072);

function* files(root) {
  if (!fs.statSync(root).isDirectory()) {
    yield root;
    return;
  }
  for (const name of fs.readdirSync(root).sort()) {
    yield* files(path.join(root, name));
  }
}

const client = new Client();
for (const root of process.argv.slice(4)) {
  for (const file of files(root)) {
    const request = new requests.CStoreRequest(file);
    request.on('response', (response) => {
      stored += response.getStatus() === constants.Status.Success ? 1 : 0;
    });
    client.addRequest(request);
    expected += 1;
  }
}

function fail(reason) {
  fs.writeSync(2, `${reason}\n`);
  process.exit(1);
}

client.on('networkError', (error) => fail(error.message));
client.on('associationRejected', () => fail('association rejected'));
client.on('closed', () => process.exit(stored === expected ? 0 : 1));
client.send('127.0.0.1', port, 'STORESCU', 'ANY-SCP', {
  connectTimeout: hour,
  associationTimeout: hour,
  pduTimeout: hour,
  asyncOps: { maxAsyncOpsInvoked: window, maxAsyncOpsPerformed: 1 },
});
