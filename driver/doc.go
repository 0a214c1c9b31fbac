// Package driver is the seam between the cache objects of package caches and
// whatever keeps their data: a Redis server, this process's memory, or a store
// of your own.
//
// A [Store] has two methods. It is given a [Pipeline]: one or more commands,
// already encoded by the caller in Redis's wire format (RESP2), and it leaves
// the replies in the same Pipeline, in the same format, for the caller to
// decode. So nothing is boxed in an interface on the way: a GET costs no
// allocation at this seam, and a store that owns a socket writes
// [Pipeline.Frames] as they are.
//
// A store that is not a Redis server reads the commands with
// [Pipeline.Command] and answers through [Pipeline.Replies]:
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
// Package testutil has the conformance suite that a store of your own can run.
package driver
