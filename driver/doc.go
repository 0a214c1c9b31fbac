// Package driver defines the interface between the cache objects of package
// caches and the stores that hold their data: a Redis server, the memory of the
// process, or a custom store.
//
// A [Store] has two methods. Do runs a [Pipeline]: one or more commands, which
// the caller has encoded in Redis's wire format (RESP2). The store adds the
// replies to the Pipeline, in the same format, and the caller decodes them in
// place. Nothing is boxed in an interface value, so a GET allocates nothing here,
// and a store that owns a socket can write [Pipeline.Frames] unchanged.
//
// A store that is not a Redis server reads the commands with [Pipeline.Command]
// and replies through [Pipeline.Replies]:
//
//	func (s *store) Do(ctx context.Context, p *driver.Pipeline) error {
//		for i := range p.Len() {
//			cmd := p.Command(i)
//			switch cmd.Name() {
//			case "PING":
//				p.Replies().Status("PONG")
//			default:
//				p.Replies().Error("ERR unknown command")
//			}
//		}
//		return nil
//	}
//
// The wire format is described at https://redis.io/docs/latest/develop/reference/protocol-spec/.
// Package testutil provides a conformance suite for custom stores.
package driver
