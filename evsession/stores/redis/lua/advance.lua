-- advance.lua: leave a checkpoint of a background job, unless another has taken the turn since.
--
-- KEYS[1]  {ns:NN}:turn:<job>   KEYS[2]  {ns:NN}:<job>  checkpoint
-- ARGV[1]  holder   ARGV[2]  fence   ARGV[3]  checkpoint
--
-- Returns 1 | 0 when another holder has taken the turn
-- Cost    O(1)

local found = redis.call('HMGET', KEYS[1], 'holder', 'fence')
if found[1] ~= ARGV[1] or found[2] ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[2], ARGV[3])
return 1
