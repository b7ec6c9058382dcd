// What `cloudflare:email` gives: workerd leaves it to who runs it. Libraries import it whether or not a Worker sends mail, and there is no
// binding here to send with.
class EmailMessage {
  constructor(from, to, raw) {
    this.from = from;
    this.to = to;
    this.raw = raw;
  }
}

export default { EmailMessage };
