-- prune.lua: remove the record of a worker that has not changed since it was seen.
--
-- KEYS[1]  {ns:NN}:workers
-- ARGV[1]  worker id   ARGV[2]  its record as it was seen
--
-- Returns 1 if it went, else 0
-- Cost    O(1)

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
